"""Turn write failures into errors that users can act on."""

import contextlib
import shlex
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from swarmctl.paths import shown

NO_SPACE = (ENOSPC, EDQUOT)


@contextlib.contextmanager
def disk_errors(root: Path, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into an error that names ``root``, the reason and a command that helps."""
    try:
        yield
    except OSError as error:
        message = f"cannot {verb} {shown(root)}: {error.strerror}"
        existing = shlex.quote(str(next(path for path in (root, *root.parents) if path.exists())))
        if error.errno in NO_SPACE:
            raise DiskFull(message, next=f"df -h {existing}") from error
        raise NodeError(message, next=f"ls -ld {existing}") from error


def checked_target(path: Path, *, yes: bool, again: str) -> Path:
    """Return the path where a file will be written, with links resolved.

    Raises ConfigurationError if the file exists and ``yes`` is not set (``again`` is the command with ``--yes``), or if
    the path exists but is not a file: a device or a pipe must not be replaced.
    """
    target = path.expanduser().resolve()
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "not a regular file"
        raise ConfigurationError(f"{shown(target)} is {kind}", next=f"ls -ld {shlex.quote(str(target))}")
    if target.exists() and not yes:
        raise ConfigurationError(f"{shown(target)} already exists", next=again)
    return target
