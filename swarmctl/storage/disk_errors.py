"""Turn write failures into errors that users can act on."""

import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.formats import explain_obstacle
from hivemind_exp.full_disk import lacks_inodes, size_limit_reached
from swarmctl.paths import shown
from swarmctl.storage.staging import is_staged

NO_SPACE = (ENOSPC, EDQUOT)
FULL = (*NO_SPACE, EFBIG)
"""Errors for which nothing can be written. The last one is a file size limit."""

_ERRNO = re.compile(r"\[Errno (\d+)\]")


@contextlib.contextmanager
def disk_errors(root: Path, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into an error that names ``root``, the reason and a command that helps."""
    try:
        yield
    except OSError as error:
        raise explained(error, root, verb) from error


def explained(error: OSError, root: Path, verb: str) -> NodeError:
    """Return the error for an OSError that happened below ``root``, with a command that helps."""
    if is_about_temporary_files(error) and (hidden := _why_nothing_temporary()) is not None:
        error, root, verb = hidden, Path(hidden.filename), "write"
    if isinstance(error, shutil.Error) and (number := _ERRNO.search(str(error))):  # from copying a directory
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    lasting = (path for path in (root, *root.parents) if os.path.lexists(path) and not is_staged(path))
    existing = next(lasting, Path("."))
    place = shlex.quote(str(existing))
    if error.errno == EFBIG:
        return size_limit_reached(f"cannot {verb} {shown(root)}")
    if error.errno in NO_SPACE:
        if lacks_inodes(existing):
            return DiskFull(f"cannot {verb} {shown(root)}: the disk has no inodes left", next=f"df -i {place}")
        return DiskFull(f"cannot {verb} {shown(root)}: {error.strerror}", next=f"df -h {place}")
    if (obstacle := explain_obstacle(error)) is not None:
        return obstacle
    reason = error.strerror or foreign(error)
    return NodeError(f"cannot {verb} {shown(root)}: {reason}", next=f"ls -ld {place}")


def is_about_temporary_files(error: OSError) -> bool:
    """Whether ``tempfile`` found no directory to which it can write. It does not say why."""
    return "usable temporary directory" in str(error)


def _why_nothing_temporary() -> OSError | None:
    """Return why no file can be written to the directory for temporary files."""
    path = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"swarmctl-{os.getpid()}")
    try:
        with open(path, "xb", buffering=0) as file:
            os.unlink(path)
            file.write(b"x")
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno or 0), os.path.dirname(path))
    return None


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
