"""Keys written where settings stand: whose they are, and what to say. A profile is no place for one."""

from hivemind_exp.providers import PROVIDERS

_ENDINGS = ("api_key", "apikey", "token", "secret", "password", "private_key")
_WORDS_OF_MODELS = frozenset({"pad_token", "eos_token", "bos_token", "unk_token"})
_SERVICES = {variable.lower(): row.name for row in PROVIDERS.values() for variable in row.variables} | {
    "hub_token": "huggingface",
    "huggingface_access_token": "huggingface",
}
"""Names of settings that hold a key, with what ``swarmctl keys`` calls it."""


def means_secret(name: str) -> bool:
    """Whether a setting of this name would hold a secret."""
    return name.lower().endswith(_ENDINGS) and name.lower() not in _WORDS_OF_MODELS


def service_of(name: str) -> str | None:
    """Return what ``swarmctl keys`` calls the key in a setting of this name; None where that is not known."""
    return _SERVICES.get(name.lower())


def command_for(service: str | None) -> str:
    """Return the command that takes such a key."""
    return f"swarmctl keys set {service or '--help'}"


def refusal(service: str | None, origin: str) -> str:
    """Return what is wrong with a key in ``origin``: a flag, a variable ("$NAME") or a profile."""
    take = f"`{command_for(service)}` asks for it"
    if origin.startswith("--"):
        return (
            "is no setting, and a key given as an argument is leaked: it is in the shell's history, and everyone on "
            f"this machine could see it in the list of processes. Revoke it; {take} unseen"
        )
    if origin.startswith("$"):
        return f"is no setting: keys are not given that way; {take} unseen"
    return (
        "is no setting: a file that is copied and shared is no place for a key. Remove it, and revoke it if anybody "
        f"else could have read it; {take} unseen"
    )
