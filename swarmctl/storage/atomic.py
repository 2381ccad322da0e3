"""Files that a command makes where its user says: whole or not at all, and over another only with a yes."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hivemind_exp.errors import ConfigurationError
from swarmctl.paths import shown


def checked_target(path: Path, *, yes: bool, again: str) -> Path:
    """Return where a file really goes, links followed.

    Raises ConfigurationError where there is a file already, without ``yes`` (``again`` is the command with it), and
    where there is something else than a file: a device or a pipe must not be replaced.
    """
    target = path.expanduser().resolve()
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "no file"
        raise ConfigurationError(f"{shown(target)} is {kind}", next=f"ls -ld {shlex.quote(str(target))}")
    if target.exists() and not yes:
        raise ConfigurationError(f"there is a file {shown(target)} already", next=again)
    return target


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file to write; it gets its name when it is complete and on the disk. Raises OSError."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    # Not mkstemp, whose mode is 0600: whoever makes a file for others has a umask that says so.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


READABLE = 0o644


PRIVATE = 0o600


def replace_text(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Put ``text`` into a file, under its name only once it is on the disk."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
