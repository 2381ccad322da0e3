"""What a file system refuses, as errors that people can act on."""

import contextlib
import shlex
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path

from hivemind_exp.errors import DiskFull, NodeError
from swarmctl.paths import shown

NO_SPACE = (ENOSPC, EDQUOT)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says so."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(root)}: {error.strerror}"
        following = f"df -h {shlex.quote(str(_existing(root)))}"
        if error.errno in NO_SPACE:
            raise DiskFull(message, next=following) from error
        raise NodeError(message, next=f"ls -ld {shlex.quote(str(_existing(root)))}") from error


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
