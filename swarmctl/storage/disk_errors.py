"""What cannot be written, as errors that people can act on."""

import contextlib
import shlex
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from swarmctl.paths import shown

NO_SPACE = (ENOSPC, EDQUOT)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says so."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(root)}: {error.strerror}"
        existing = shlex.quote(str(next(path for path in (root, *root.parents) if path.exists())))
        if error.errno in NO_SPACE:
            raise DiskFull(message, next=f"df -h {existing}") from error
        raise NodeError(message, next=f"ls -ld {existing}") from error


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
