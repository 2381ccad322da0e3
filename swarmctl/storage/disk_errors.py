"""Turn write failures into errors that users can act on."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from hivemind_exp.formats import explain_obstacle
from swarmctl.paths import shown

NO_SPACE = (ENOSPC, EDQUOT)
FULL = (*NO_SPACE, EFBIG)
"""Errors for which nothing can be written. The last one is a file size limit."""


@contextlib.contextmanager
def disk_errors(root: Path, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into an error that names ``root``, the reason and a command that helps."""
    try:
        yield
    except OSError as error:
        raise explained(error, root, verb) from error


def explained(error: OSError, root: Path, verb: str) -> NodeError:
    """Return the error for an OSError that happened below ``root``, with a command that helps."""
    existing = next((path for path in (root, *root.parents) if os.path.lexists(path)), Path("."))
    place = shlex.quote(str(existing))
    if error.errno == EFBIG:
        return DiskFull(
            f"cannot {verb} {shown(root)}: the file size limit is reached (ulimit -f)", next="ulimit -f unlimited"
        )
    if error.errno in NO_SPACE:
        with contextlib.suppress(OSError):
            if (disk := os.statvfs(existing)).f_files and not disk.f_favail:
                return DiskFull(f"cannot {verb} {shown(root)}: the disk has no inodes left", next=f"df -i {place}")
        return DiskFull(f"cannot {verb} {shown(root)}: {error.strerror}", next=f"df -h {place}")
    if (obstacle := explain_obstacle(error)) is not None:
        return obstacle
    return NodeError(f"cannot {verb} {shown(root)}: {error.strerror}", next=f"ls -ld {place}")


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
