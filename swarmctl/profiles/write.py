"""Putting a new profile among the user's: checked first, written whole, never over another without a yes."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError
from swarmctl.paths import profiles_directory, shown
from swarmctl.profiles.validate import profile_problems
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.problems import Problem
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.storage.disk_errors import disk_errors
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
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write(path, text, None if path.is_file() else atomic_write.READABLE)


def written(path: Path) -> dict[str, Any]:
    """Return what ``--json`` tells of a profile that was written."""
    run = typed(f"swarmctl run --profile {shlex.quote(path.stem)}")
    return {"name": path.stem, "path": str(path), "run": run}


def print_written(path: Path) -> None:
    """Say where a profile was written, and how it is run."""
    print(f"Wrote {shown(path)}")
    print(f"Run it: {written(path)['run']}", flush=True)
