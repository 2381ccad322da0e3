"""Putting a new profile among the user's: checked first, written whole, never over another without a yes."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from swarmctl.paths import profiles_directory, shown
from swarmctl.profiles.validate import profile_problems
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.problems import Problem
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.settings.schema import SettingPath, docstrings, settings
from swarmctl.storage.disk_errors import NO_SPACE
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.safe_text import looks_like_key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_path(name: str, *, yes: bool, again: str) -> Path:
    """Return where the profile ``name`` goes.

    Raises ConfigurationError for a name that no node could have, and where there is a file already, without ``yes``.
    ``again`` is the command that overwrites it.
    """
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise ConfigurationError(
            "a profile's name has letters, digits, '.', '_' and '-', begins with a letter or digit, "
            f"has at most 64 characters and no {SUFFIX} at its end",
            next="swarmctl profiles list",
        )
    path = profiles_directory() / f"{name}{SUFFIX}"
    if os.path.lexists(path) and not yes:
        raise ConfigurationError(f"there is a profile {shown(path)} already", next=again)
    return path


def problems_in(path: Path, text: str) -> list[Problem]:
    """Return all that is wrong with a profile that has still to be written."""
    profile = profiles.parsed(path, text)
    return [*profile_problems(profile), *_secrets(profile)]


def _secrets(profile: Profile) -> Iterator[Problem]:
    for key, value in _texts(profile.values, ""):
        if looks_like_key(value):
            yield Problem(key, f"{key} looks like a key, and a profile is no place for one", None, profile.label)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield key, value
        case dict():
            for name, item in value.items():
                yield from _texts(item, f"{key}.{name}" if key else name)
        case list():
            for item in value:
                yield from _texts(item, key)


def write(path: Path, text: str) -> None:
    """Write a profile that was checked. Raises NodeError where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write(path, text, None if path.is_file() else atomic_write.READABLE)
    except OSError as error:
        kind = DiskFull if error.errno in NO_SPACE else NodeError
        raise kind(f"cannot write {shown(path)}: {error.strerror}") from error


def written(path: Path) -> dict[str, Any]:
    """Return what ``--json`` tells of a profile that was written."""
    run = typed(f"swarmctl run --profile {shlex.quote(path.stem)}")
    return {"schema": 1, "name": path.stem, "path": str(path), "run": run}


def print_written(path: Path) -> None:
    """Say where a profile was written, and how it is run."""
    print(f"Wrote {shown(path)}")
    print(f"Run it: {written(path)['run']}", flush=True)


TASKS: SettingPath = ("tasks",)


def rendered(values: Mapping[SettingPath, Any], *, head: Sequence[str], description: str, extends: str | None) -> str:
    """Return TOML in the order of the configuration. Values that are None have no line."""
    paths = sorted((path for path, value in values.items() if value is not None), key=_place)
    lines = [f"# {line}".rstrip() for line in head]
    lines.append(f"description = {_toml(description)}")
    if extends is not None:
        lines.append(f"extends = {_toml(extends)}")
    if TASKS in paths:
        lines += _tasks(values[TASKS])
    section: SettingPath = ()
    for path in paths:
        if path == TASKS:
            continue
        if path[:-1] != section:
            section = path[:-1]
            lines += ["", f"[{'.'.join(map(_key, section))}]"]
        lines += [f"# {line}" for line in docstrings().get(path, "").splitlines()]
        lines.append(f"{_key(path[-1])} = {_toml(values[path])}")
    return "\n".join(lines) + "\n"


def head_comment(text: str) -> list[str]:
    """Return the lines of the comment that a file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def _place(path: SettingPath) -> tuple[int, int]:
    """Order settings by table, as TOML wants it, and both as the configuration has them; unknown ones go last."""
    known = list(settings())
    tables = list(dict.fromkeys(path[:-1] for path in known))
    table = tables.index(path[:-1]) if path[:-1] in tables else len(tables)
    return (-1 if len(path) == 1 else table, known.index(path) if path in known else len(known))


def _key(name: str) -> str:
    return str(tomlkit.key(name).as_string())


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A list of names where that says all, else a table each."""
    if all(task.keys() == {"name"} for task in tasks):
        return ["", f"tasks = {_toml([task['name'] for task in tasks])}"]
    lines = []
    for task in tasks:
        lines += ["", "[[tasks]]", *(f"{key} = {_toml(value)}" for key, value in task.items())]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return str(table.as_string())
    return str(tomlkit.item(value).as_string())
