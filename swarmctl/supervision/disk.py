"""Wait for room on a full disk."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hivemind_exp.node_files import NodeFiles

_LEAST = 16 * 2**20
"""Bytes that must be free before a node continues, at least."""
_CHECKPOINTS = 2
"""A node continues if this many checkpoints fit, so that it does not stop again at once."""


def needed(files: NodeFiles) -> int:
    """Return the bytes that must be free before a node continues."""
    with suppress(OSError):
        newest = max(files.checkpoints.glob("[0-9]*"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            return _LEAST + _CHECKPOINTS * sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return _LEAST


def free(root: Path) -> int:
    """Return the bytes free on a directory's disk; 0 if it cannot be read."""
    with suppress(OSError):
        return shutil.disk_usage(root).free
    return 0


def has_room(root: Path, size: int) -> bool:
    """Whether a file of ``size`` bytes can be written to a directory.

    Free space is not enough: a quota or a lack of inodes would stop the file, too.
    """
    if free(root) < size:
        return False
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(_LEAST))
    except OSError:
        return False
    return True
