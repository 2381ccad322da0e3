"""The sources of a configuration for pydantic-settings: one layer for each profile, variable and flag.

Order of precedence, strongest first: flags, ``SWARMCTL_SECTION__KEY`` variables, the flags of the node's last run, the
profile, the profile it extends, the defaults. An unknown key is an error in each of them: a misspelled limit would
otherwise be silently ignored.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from hivemind_exp.config import Config, task_tables
from hivemind_exp.model_names import BUILT_IN
from swarmctl import paths
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.schema import SettingPath, flatten, parse

PREFIX = "SWARMCTL_"
NOT_SETTINGS = {paths.HOME_VARIABLE, profiles.VARIABLE}
_KEY_FILE = re.compile(r"SWARMCTL_[A-Z0-9_]+_API_KEY_FILE")
NAME: SettingPath = ("node", "name")
_LORA: SettingPath = ("model", "lora")

FROM_PROFILE = "name of the profile"
"""Origin of a node's name if no one set it."""
REMEMBERED = "last run"
"""Origin of the flags of a node's last run. Variables in this command's environment override them."""


@dataclass(frozen=True, slots=True)
class Override:
    """One value given on the command line."""

    path: SettingPath
    value: Any
    origin: str
    """The flag, for display: ``--set``, ``--rounds``."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The values from one profile, variable or flag."""

    origin: str
    values: dict[SettingPath, Any]


class Settings(Config, BaseSettings):
    """A configuration whose values come from layers."""

    model_config = SettingsConfigDict(case_sensitive=True)

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Merge ``layers``, given strongest last. Raises ValidationError."""
        BaseSettings.__init__(self, layers=layers)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return a source for each layer, strongest first. Layers also cover the environment, whose values are TOML."""
        assert isinstance(init_settings, InitSettingsSource)
        layers: Sequence[Layer] = init_settings.init_kwargs["layers"]
        return tuple(InitSettingsSource(settings_cls, _nested(layer.values)) for layer in reversed(layers))


def gather(profile: Profile, overrides: Sequence[Override], environment: Mapping[str, str]) -> list[Layer]:
    """Return the values of each source that no stronger source replaces, strongest source last.

    Raises ConfigurationError if ``extends`` cannot be resolved.
    """
    named = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and not _KEY_FILE.fullmatch(name):
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            named.append(Override(path, anchored(path, parse(environment[name], path), Path.cwd()), f"${name}"))
    remembered = [each for each in overrides if each.origin == REMEMBERED]
    flags = [each for each in overrides if each.origin != REMEMBERED]
    layers = [Layer(FROM_PROFILE, {NAME: profile.node})]
    for each in profiles.family(profile):
        values = {
            path: anchored(path, anchored(path, value, each.path.parent), Path.cwd())
            for path, value in flatten(each.values)
        }
        _add(layers, Layer(each.label, values))
    for given in [*remembered, *named, *flags]:
        _add(layers, Layer(given.origin, {given.path: given.value}))
    return layers


def _add(layers: list[Layer], layer: Layer) -> None:
    """Add a stronger layer. A table replaces a value, and a value replaces a table, as a whole."""
    for path, value in list(layer.values.items()):
        replaced = [(weaker, other) for weaker in layers for other in weaker.values if related(path, other)]
        on = path == _LORA and value is True and any(len(other) > len(path) for _, other in replaced)
        if on or (path == NAME and value == ""):
            del layer.values[path]  # keep the adapter that a weaker layer describes, and the profile's name
            continue
        for weaker, other in replaced:
            del weaker.values[other]
    layers.append(layer)


def origins_of(layers: Sequence[Layer]) -> dict[SettingPath, str]:
    """Return the origin of each value that is not a default."""
    return {path: layer.origin for layer in layers for path in layer.values}


def related(path: SettingPath, other: SettingPath) -> bool:
    """Whether one path equals or contains the other."""
    return path[: len(other)] == other[: len(path)]


def _nested(values: Mapping[SettingPath, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, value in values.items():
        table = result
        for key in path[:-1]:
            table = table.setdefault(key, {})
        table[path[-1]] = value
    return result


def anchored(path: SettingPath, value: Any, directory: Path) -> Any:
    """Return ``value`` with paths relative to ``directory`` made absolute, if the setting at ``path`` holds paths.

    A model's name is a path if it begins like one, or if a directory with that name exists.
    """
    if path == ("model", "name") and isinstance(value, str) and value not in ("", *BUILT_IN):
        is_path = re.match(r"~|\.{1,2}(/|$)", value) or (directory / value).is_dir()
        return os.path.normpath(directory / os.path.expanduser(value)) if is_path else value
    if path == ("tasks",):
        tables = task_tables(value)
        if isinstance(tables, list) and any(isinstance(task, dict) and task.get("path") for task in tables):
            return [_anchored_task(task, directory) for task in tables]
    return value


def _anchored_task(task: Any, directory: Path) -> Any:
    if not isinstance(task, dict) or not isinstance(task.get("path"), str):
        return task
    return {**task, "path": os.path.normpath(directory / os.path.expanduser(task["path"]))}
