"""Putting a new profile among the user's: checked first, written whole, never over another without a yes."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.nodes.directory import NO_SPACE
from swarmctl.paths import profiles_directory, shown
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.profile_files import SUFFIX, Profile
from swarmctl.settings.resolve import Problem, problems_of
from swarmctl.storage.textfile import READABLE, replace_text
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
    """Return all that is wrong with a profile that has still to be written, the names of its tasks included."""
    profile = profiles.parsed(path, text)
    resolved, problems = problems_of(profile)
    if resolved is not None:
        try:
            check_tasks(resolved.config.tasks)
        except NodeError as error:
            return [Problem("tasks", f"tasks: {error.message}", None, profile.label)]
    return [*problems, *_secrets(profile)]


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
        mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else READABLE
        replace_text(path, text, mode)
    except OSError as error:
        kind = DiskFull if error.errno in NO_SPACE else NodeError
        raise kind(f"cannot write {shown(path)}: {error.strerror}") from error


def run_command(name: str) -> str:
    """Return the command that runs the profile."""
    return f"swarmctl run --profile {shlex.quote(name)}"
