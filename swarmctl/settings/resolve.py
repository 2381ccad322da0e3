"""From profile, environment and flags to one configuration that knows where each of its values comes from.

Flags go before ``SWARMCTL_SECTION__KEY``, that before the flags a node was last run with, those before the profile,
that before the one it extends, that before the defaults. A key that does not exist is an error in each of them: a
misspelt limit is a lost limit.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.providers import PROVIDERS
from swarmctl import paths
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.misplaced_keys import command_for, means_secret, refusal, service_of
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.schema import SettingPath, dotted, flatten, parse, settings
from swarmctl.terminal.suggest import nearest

PREFIX = "SWARMCTL_"
_NOT_SETTINGS = {paths.HOME_VARIABLE, profiles.VARIABLE}
_KEY_FILE = re.compile(r"SWARMCTL_[A-Z0-9_]+_API_KEY_FILE")
_LORA: SettingPath = ("model", "lora")
_NAME: SettingPath = ("node", "name")


REMEMBERED = "last run"
"""Origin of what a node was last run with: it counts less than what this command's environment says."""


@dataclass(frozen=True, slots=True)
class Override:
    """One value given on the command line."""

    path: SettingPath
    value: Any
    origin: str
    """The flag, for people: ``--set``, ``--rounds``."""


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


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, and where it comes from."""

    config: Config
    origins: Mapping[str, str]
    """Origin of each setting (dotted) that is not a default."""
    profile: Profile
    overrides: tuple[Override, ...]


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: Any
    origin: str


def override(assignment: str) -> Override:
    """Parse ``KEY=VALUE``. Raises ConfigurationError where there is no ``=``."""
    key, equals, text = assignment.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigurationError(
            "--set takes KEY=VALUE, such as --set train.learning_rate=1e-5", next="swarmctl profiles show"
        )
    return Override(path, parse(text.strip(), path), "--set")


def variable(path: SettingPath) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + "__".join(path).upper()


def _environment(environment: Mapping[str, str]) -> dict[str, SettingPath]:
    """Return the variables that claim to be settings, with their paths."""
    return {
        name: tuple(name.removeprefix(PREFIX).lower().split("__"))
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS and not _KEY_FILE.fullmatch(name)
    }


def anchored(path: SettingPath, value: Any, directory: Path) -> Any:
    """Make files that are named relative to ``directory`` findable from anywhere."""
    if path == ("model", "name") and isinstance(value, str) and re.match(r"~|\.{1,2}(/|$)", value):
        return os.path.normpath(directory / os.path.expanduser(value))
    if path == ("tasks",) and isinstance(value, list):
        return [
            {**task, "path": os.path.normpath(directory / os.path.expanduser(task["path"]))}
            if isinstance(task, dict) and isinstance(task.get("path"), str)
            else task
            for task in value
        ]
    return value


def _set_value(merged: dict[SettingPath, _Leaf], path: SettingPath, leaf: _Leaf) -> None:
    """Set one value. A table set over a value, or a value over a table, replaces it whole."""
    if path == _NAME and leaf.value == "":
        return  # the name of the profile stays
    below = [other for other in merged if other[: len(path)] == path and other != path]
    if path == _LORA and leaf.value is True:
        if below:
            return
        leaf = _Leaf({}, leaf.origin)
    elif path == _LORA and leaf.value is False:
        leaf = _Leaf(None, leaf.origin)
    for other in below:
        del merged[other]
    for length in range(1, len(path)):
        merged.pop(path[:length], None)
    merged[path] = leaf


def _merge(
    family: Sequence[Profile], overrides: Iterable[Override], environment: Mapping[str, str]
) -> dict[SettingPath, _Leaf]:
    merged: dict[SettingPath, _Leaf] = {_NAME: _Leaf(family[-1].name, "name of the profile")}
    for profile in family:
        for path, value in flatten(profile.values):
            _set_value(merged, path, _Leaf(anchored(path, value, profile.path.parent), profile.label))
    given = list(overrides)
    for each in given:
        if each.origin == REMEMBERED:
            _set_value(merged, each.path, _Leaf(each.value, each.origin))
    for name, path in _environment(environment).items():
        _set_value(merged, path, _Leaf(anchored(path, parse(environment[name], path), Path.cwd()), f"${name}"))
    for each in given:
        if each.origin != REMEMBERED:
            _set_value(merged, each.path, _Leaf(each.value, each.origin))
    return merged


def _nested(merged: Mapping[SettingPath, _Leaf]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, leaf in merged.items():
        table = result
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = leaf.value
    return result


def _origin(location: SettingPath, merged: Mapping[SettingPath, _Leaf]) -> str | None:
    """Return the origin of the value at, above or below a place."""
    for path, leaf in merged.items():
        length = min(len(path), len(location))
        if path[:length] == location[:length]:
            return leaf.origin
    return None


def _guess(location: SettingPath, key: str, origin: str) -> str | None:
    if origin.startswith("$"):
        # Compared without what all of them begin with, which would make any two alike.
        known = {name.removeprefix(PREFIX): name for name in [*map(variable, settings()), *_NOT_SETTINGS]}
        guess = nearest(origin.removeprefix(f"${PREFIX}"), known)
        return known[guess] if guess else None
    if location[0] == "tasks" and len(location) > 1:
        from hivemind_exp.config import TaskConfig

        return nearest(location[-1], TaskConfig.model_fields)
    if location[0] == "providers" and len(location) > 2:
        from hivemind_exp.config import ProviderConfig

        return nearest(location[-1], ProviderConfig.model_fields)
    paths = {dotted(path): path for path in settings()}
    same_last = [name for name, path in paths.items() if path[-1] == location[-1]]
    return nearest(key, paths) or (same_last[0] if same_last else None)


def _problem(error: ErrorDetails, merged: Mapping[SettingPath, _Leaf], fallback: str) -> Problem:
    location = tuple(str(part) for part in error["loc"])
    key = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", dotted(location))
    origin = (_origin(location, merged) or fallback) if location else ""
    name = origin if origin.startswith("$") else key
    place = "" if not origin or origin.startswith(("$", "--")) else f"{origin}: "
    if error["type"] == "extra_forbidden":
        if means_secret(location[-1]):
            service = _service(location, merged)
            return Problem(key, f"{place}{name} {refusal(service, origin)}", None, origin, command_for(service))
        what = "is not a setting"
        return Problem(key, f"{place}{name} {what}", _guess(location, key, origin), origin)
    return Problem(key, f"{place}{name} {_explain(error, location)}".strip(), None, origin)


def _service(location: SettingPath, merged: Mapping[SettingPath, _Leaf]) -> str | None:
    """Return whose key a setting would hold: by its own name, or by the provider that is named beside it."""
    beside = merged.get((*location[:-1], "provider"))
    named = beside.value if beside is not None and isinstance(beside.value, str) else None
    return service_of(location[-1]) or (named if named in PROVIDERS else None)


def _explain(error: ErrorDetails, location: SettingPath) -> str:
    """Say what is wrong with a value, after its name."""
    field = settings().get(location)
    if error["type"] == "string_pattern_mismatch" and field is not None:
        return f"has a value it cannot take. {field.description}"
    if error["type"] in {"model_type", "model_attributes_type"}:
        return "must be a table" if location[0] != "tasks" else "must be a table with a name, or the name of a task"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "too_short":
        return "must not be empty"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message.split(", unable to parse")[0]


def problems_of(
    profile: Profile, overrides: Sequence[Override] = (), environment: Mapping[str, str] | None = None
) -> tuple[Resolved | None, list[Problem]]:
    """Resolve, or say everything that is wrong. Raises ConfigurationError where ``extends`` cannot be followed."""
    given = tuple(replace(each, value=anchored(each.path, each.value, Path.cwd())) for each in overrides)
    merged = _merge(profiles.family(profile), given, environment or {})
    try:
        config = Config.model_validate(_nested(merged))
    except ValidationError as error:
        return None, [_problem(detail, merged, profile.label) for detail in error.errors(include_input=False)]
    origins = {dotted(path): leaf.origin for path, leaf in merged.items()}
    return Resolved(config, origins, profile, given), []


def resolve(profile: Profile, overrides: Sequence[Override], environment: Mapping[str, str]) -> Resolved:
    """Return the configuration. Raises ConfigurationError that names all that is wrong with it."""
    resolved, problems = problems_of(profile, overrides, environment)
    if resolved is not None:
        return resolved
    cure = next((problem.cure for problem in problems if problem.cure), None)
    raise ConfigurationError("; ".join(map(str, problems)), next=cure or _next(problems[0], profile))


def _next(problem: Problem, profile: Profile) -> str:
    if problem.key == dotted(_NAME):
        return f"swarmctl run --profile {shlex.quote(profile.reference)} --node my-node"
    if problem.origin.startswith("$"):
        return f"unset {problem.origin[1:]}"
    if problem.origin and not problem.origin.startswith("--"):
        return "swarmctl profiles validate " + shlex.quote(profile.reference)
    return f"swarmctl profiles show {shlex.quote(profile.reference)} --origin"
