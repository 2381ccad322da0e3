"""What is wrong with a configuration: where it was said, what was probably meant, and never the value."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

from hivemind_exp.config import ProviderConfig, TaskConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.providers import PROVIDERS
from swarmctl.settings.schema import SettingPath, docstrings, dotted, settings
from swarmctl.settings.sources import NOT_SETTINGS, PREFIX, Layer, origins_of, related
from swarmctl.terminal.suggest import nearest


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a value. Never contains the value."""

    key: str
    message: str
    nearest: str | None
    origin: str
    cure: str | None = None
    """The command that does what was meant, where that is known."""

    def __str__(self) -> str:
        return f"{self.message}; did you mean {self.nearest}?" if self.nearest else self.message


def refused(problems: Sequence[Problem], otherwise: str) -> ConfigurationError:
    """Return the error that names all problems, with the command that cures one of them or ``otherwise``."""
    cure = next((problem.cure for problem in problems if problem.cure), otherwise)
    return ConfigurationError("; ".join(map(str, problems)), next=cure)


def explain(error: ErrorDetails, layers: Sequence[Layer], fallback: str) -> Problem:
    """Return what is wrong. ``fallback`` is the origin of what no layer says."""
    location = tuple(str(part) for part in error["loc"])
    key = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", dotted(location))
    origins = origins_of(layers).items() if location else ()
    origin = next((origin for path, origin in origins if related(path, location)), fallback if location else "")
    name = origin if origin.startswith("$") else key
    place = "" if not origin or origin.startswith(("$", "--")) else f"{origin}: "
    if error["type"] != "extra_forbidden":
        return Problem(key, f"{place}{name} {_what(error, location)}".strip(), None, origin)
    if means_secret(location[-1]):
        cure = f"swarmctl keys set {_service(location, layers) or '--help'}"
        return Problem(key, f"{place}{name} {_refusal(cure, origin)}", None, origin, cure)
    return Problem(key, f"{place}{name} is not a setting", _guess(location, key, origin), origin)


def _what(error: ErrorDetails, location: SettingPath) -> str:
    """Say what is wrong with a value, after its name."""
    match error["type"]:
        case "string_pattern_mismatch" if location in settings():
            return f"has a value it cannot take. {docstrings()[location]}"
        case "model_type" | "model_attributes_type":
            return "must be a table" if location[0] != "tasks" else "must be a table with a name, or the name of a task"
        case "missing":
            return "is missing"
        case "too_short":
            return "must not be empty"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message.split(", unable to parse")[0]


def _service(location: SettingPath, layers: Sequence[Layer]) -> str | None:
    """Return whose key a setting would hold: by its own name, or by the provider that is named beside it."""
    beside = (*location[:-1], "provider")
    named = next((layer.values[beside] for layer in reversed(layers) if beside in layer.values), None)
    return service_of(location[-1]) or (named if isinstance(named, str) and named in PROVIDERS else None)


def _guess(location: SettingPath, key: str, origin: str) -> str | None:
    if origin.startswith("$"):
        # Compared without what all of them begin with, which would make any two alike.
        known = {"__".join(path).upper() for path in settings()} | {name.removeprefix(PREFIX) for name in NOT_SETTINGS}
        guess = nearest(origin.removeprefix(f"${PREFIX}"), known)
        return guess and PREFIX + guess
    for table, depth, model in (("tasks", 1, TaskConfig), ("providers", 2, ProviderConfig)):
        if location[0] == table and len(location) > depth:
            return nearest(location[-1], model.model_fields)
    paths = {dotted(path): path for path in settings()}
    same_last = (name for name, path in paths.items() if path[-1] == location[-1])
    return nearest(key, paths) or next(same_last, None)


_ENDINGS = ("api_key", "apikey", "token", "secret", "password", "private_key")
_WORDS_OF_MODELS = frozenset({"pad_token", "eos_token", "bos_token", "unk_token"})
_SERVICES = {variable.lower(): row.name for row in PROVIDERS.values() for variable in row.variables} | {
    "hub_token": "huggingface",
    "huggingface_access_token": "huggingface",
}
"""Names of settings that hold a key, with what ``swarmctl keys`` calls it. A profile is no place for one."""


def means_secret(name: str) -> bool:
    """Whether a setting of this name would hold a secret."""
    return name.lower().endswith(_ENDINGS) and name.lower() not in _WORDS_OF_MODELS


def service_of(name: str) -> str | None:
    """Return what ``swarmctl keys`` calls the key in a setting of this name; None where that is not known."""
    return _SERVICES.get(name.lower())


def _refusal(cure: str, origin: str) -> str:
    """Return what is wrong with a key in ``origin``: a flag, a variable ("$NAME") or a profile."""
    take = f"`{cure}` asks for it"
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
