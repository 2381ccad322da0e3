"""Problems with a configuration: which value of which source is wrong, what is allowed, and what was probably meant."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

from hivemind_exp.config import ProviderConfig, TaskConfig
from hivemind_exp.providers import PROVIDERS
from swarmctl.settings.allowed import PROVIDER_NAME, allowed, known_part, near_value, shown, without_key
from swarmctl.settings.correction import Correction, OptionsRefused, SettingsRefused
from swarmctl.settings.options import FLAGS
from swarmctl.settings.schema import SettingPath, dotted, settings
from swarmctl.settings.sources import NOT_SETTINGS, PREFIX, Layer, origins_of, related
from swarmctl.terminal.suggest import nearest


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with a configuration. Its message never contains a secret."""

    key: str
    message: str
    nearest: str | None
    origin: str
    cure: str | None = None
    """The command that fixes the problem, if known."""
    correction: Correction | None = None
    """What was probably meant, if that can be typed instead."""

    def __str__(self) -> str:
        return f"{self.message}; did you mean {self.nearest}?" if self.nearest else self.message


def refused(problems: Sequence[Problem], otherwise: str) -> SettingsRefused | OptionsRefused:
    """Return the error that lists all problems, with the command that fixes one of them or ``otherwise``.

    It is a UsageError if all of them are values of options, and ConfigurationError if a setting is wrong in a profile,
    a variable or ``--set``.
    """
    cure = next((problem.cure for problem in problems if problem.cure), otherwise)
    typed = all(problem.origin.startswith("--") and problem.origin != "--set" for problem in problems)
    return (OptionsRefused if typed else SettingsRefused)("; ".join(map(str, problems)), next=cure)


def explain(error: ErrorDetails, layers: Sequence[Layer], fallback: str) -> Problem:
    """Return the problem behind a validation error. ``fallback`` is the origin of values that are in no layer."""
    location = tuple(str(part) for part in error["loc"])
    unknown = error["type"] == "extra_forbidden"
    wrong_name = location[-1:] == ("[key]",)
    if wrong_name:
        location = location[:-1]
    elif not unknown and error["type"] != "missing":
        location = known_part(location)
    elif unknown and len(location) == 1:  # a table that does not exist: name the setting that was typed in it
        location = next((path for each in layers for path in each.values if path[:1] == location), location)
    key = without_key(re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", dotted(location)))
    origins = origins_of(layers).items() if location else ()
    origin = next((origin for path, origin in origins if related(path, location)), fallback if location else "")
    name = origin if origin.startswith("$") or origin in (*FLAGS, "--node") else key
    place = "" if not origin or origin.startswith(("$", "--")) else f"{origin}: "
    if wrong_name:
        return Problem(key, f"{place}invalid provider name: {shown(location[-1])}. Use {PROVIDER_NAME}", None, origin)
    if not unknown:
        correction = _corrected_value(location, origin, layers)
        return Problem(key, f"{place}{_what(error, location, name)}", None, origin, correction=correction)
    if means_secret(location[-1]) and not isinstance(error["input"], int | float):  # a number is a mistyped limit
        cure = f"swarmctl keys set {_service(location, layers) or '--help'}"
        return Problem(key, f"{place}{name} {_refusal(cure, origin)}", None, origin, cure)
    guess = _guess(location, key, origin)
    correction = _corrected_name(location, origin, guess, layers)
    return Problem(key, f"{place}unknown setting {name}", guess, origin, correction=correction)


def _corrected_value(location: SettingPath, origin: str, layers: Sequence[Layer]) -> Correction | None:
    """Return the correction of a wrong value; None if it was not typed, or if it is unclear what was meant."""
    value = next((each.values[location] for each in layers if each.origin == origin and location in each.values), None)
    meant, name = near_value(location, value), dotted(location)
    if meant is None or not origin.startswith(("--", "$")):
        return None
    return Correction(origin, name, origin[1:] if origin.startswith("$") else name, meant)


def _corrected_name(
    location: SettingPath, origin: str, guess: str | None, layers: Sequence[Layer]
) -> Correction | None:
    """Return the correction of a setting's name; None if it was not typed, or if it is unclear what was meant."""
    if guess is None or not any(location in each.values for each in layers if each.origin == origin):
        return None
    if origin.startswith("$"):
        return Correction(origin, dotted(location), guess)
    name = dotted((*location[:-1], guess)) if location[0] == "providers" else guess
    # Several settings can have the name that was typed.
    return Correction(origin, dotted(location), name) if origin == "--set" and " " not in name else None


def _what(error: ErrorDetails, location: SettingPath, name: str) -> str:
    """Return what is wrong with a value of a known setting, with the value and what is allowed instead."""
    match error["type"]:
        case "missing":
            return f"missing {name}"
        case "value_error":  # raised by the configuration itself, in plain words
            return error["msg"].removeprefix("Value error, ")
    secret = any(map(_may_hold_secret, location))
    phrase = allowed(location)
    return f"invalid {name}: {'(hidden)' if secret else shown(error['input'])}" + (f". Use {phrase}" if phrase else "")


def _may_hold_secret(name: str) -> bool:
    """Whether a user may put a secret here. ``offload.key`` says where the key is, but sounds as if it held the key."""
    return means_secret(name) or name == "key"


def _service(location: SettingPath, layers: Sequence[Layer]) -> str | None:
    """Return which service a key belongs to, by the setting's name or by the provider set next to it."""
    beside = (*location[:-1], "provider")
    named = next((layer.values[beside] for layer in reversed(layers) if beside in layer.values), None)
    return service_of(location[-1]) or (named if isinstance(named, str) and named in PROVIDERS else None)


def _guess(location: SettingPath, key: str, origin: str) -> str | None:
    for table, depth, model in (("tasks", 1, TaskConfig), ("providers", 2, ProviderConfig)):
        if location[0] == table and len(location) > depth and not origin.startswith("$"):
            return nearest(location[-1], model.model_fields)
    section = [path for path in settings() if path[:-1] == location[:-1]]
    similar = _similar(location[-1], section) or _abbreviated(location[-1], settings())
    if origin.startswith("$"):
        if similar:
            return PREFIX + "__".join(similar).upper()
        # Compared without the prefix: it would make any two variables similar.
        known = {"__".join(path).upper() for path in settings()} | {name.removeprefix(PREFIX) for name in NOT_SETTINGS}
        guess = nearest(origin.removeprefix(f"${PREFIX}"), known)
        return guess and PREFIX + guess
    paths = {dotted(path): path for path in settings()}
    same_last = [name for name, path in paths.items() if path[-1] == location[-1]]
    near = nearest(dotted(location[:-1]), [name.rpartition(".")[0] for name in same_last])  # of a misspelled table
    same_last = [name for name in same_last if name.rpartition(".")[0] == near] or same_last
    return (similar and dotted(similar)) or " or ".join(same_last) or nearest(key, paths)


def _similar(word: str, section: Sequence[SettingPath]) -> SettingPath | None:
    """Return the setting of a section that a word stands for: initials, a beginning, or a typo."""
    names = {path[-1]: path for path in section}
    begun = [name for name in names if len(word) > 2 and name.startswith(word)]
    found = begun[0] if len(begun) == 1 else nearest(word, names)
    return _abbreviated(word, section) or (names[found] if found else None)


def _abbreviated(word: str, known: Iterable[SettingPath]) -> SettingPath | None:
    """Return the first setting whose words begin with the letters of ``word``: ``learning_rate`` for ``lr``."""
    several = (path for path in known if "_" in path[-1])
    return next((path for path in several if word == "".join(part[0] for part in path[-1].split("_"))), None)


_ENDINGS = ("api_key", "apikey", "token", "secret", "password", "private_key")
_WORDS_OF_MODELS = frozenset({"pad_token", "eos_token", "bos_token", "unk_token"})
_SERVICES = {variable.lower(): row.name for row in PROVIDERS.values() for variable in row.variables} | {
    "hub_token": "huggingface",
    "huggingface_access_token": "huggingface",
}
"""Names of variables and settings that hold a key in other programs, with the key's name in ``swarmctl keys``."""


def means_secret(name: str) -> bool:
    """Whether a setting with this name would hold a secret."""
    return name.lower().endswith(_ENDINGS) and name.lower() not in _WORDS_OF_MODELS


def service_of(name: str) -> str | None:
    """Return the name in ``swarmctl keys`` of the key in a setting with this name; None if unknown."""
    return _SERVICES.get(name.lower())


def _refusal(cure: str, origin: str) -> str:
    """Return what to do about a key in ``origin``: a flag, a variable ("$NAME") or a profile."""
    save = f"with `{cure.removesuffix(' --help')}`, which does not show what you type"
    if origin.startswith("--"):
        return (
            "is not a setting, and a key on the command line is leaked: it is in your shell's history, and every user "
            f"of this machine could see it in the process list. Revoke it. Save a new one {save}"
        )
    if origin.startswith("$"):
        return f"is not a setting; API keys are not set this way. Save it {save}"
    return (
        "is not a setting; API keys don't belong in files that are copied and shared. Remove it, and revoke it if "
        f"anyone else could have read it. Save it {save}"
    )
