"""Atomic file writes: a file gets its name only after it is completely on disk. Imports nothing from this project.

Whole directories (checkpoints, uploads to the hub, new nodes) are renamed into place by the code that fills them. Logs
and locks are written in place, because a file that is appended to or locked must stay the same file.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
_LEFT_S = 3600.0
"""Age in seconds from which a file that was not finished belongs to a program that was killed."""
READABLE = 0o644


def _delete_left(path: Path) -> None:
    """Delete what programs that were killed have left of this file."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _LEFT_S:
                os.unlink(entry.path)


@contextmanager
def new_file(path: Path, mode: int | None = PRIVATE, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to fill. When the block ends, sync it and rename it to ``path`` (a link there is replaced).

    Args:
        path: the file's final path. Its directory must exist.
        mode: the new file's mode. None keeps the mode of the file it replaces, or uses the umask for a new file.
        exclusive: never replace an existing file.

    Raises:
        FileExistsError: ``exclusive`` is set and ``path`` exists, even as a dangling link.
        OSError: the file cannot be written. After this or any error in the block, an existing file is unchanged.
    """
    if mode is None and path.is_file():
        mode = stat.S_IMODE(path.stat().st_mode)
    _delete_left(path)
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o666 if mode is None else PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        if exclusive:
            _take_free_name(partial, path)
        else:
            os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)  # a failed write does not name its file
        raise
    finally:
        partial.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems cannot sync a directory, and the file already has its name
        sync(path.parent)


def write(path: Path, content: str | bytes, mode: int | None = PRIVATE, *, exclusive: bool = False) -> None:
    """Write a file atomically, as ``new_file`` does. Text is encoded as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with new_file(path, mode, exclusive=exclusive) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Sync a file, or the names in a directory, to disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_free_name(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, this fails if the name is taken
    except FileExistsError:
        raise
    except OSError as error:  # the file system has no hard links: check, then rename
        if os.path.lexists(path):
            raise FileExistsError(EEXIST, os.strerror(EEXIST), str(path)) from error
        os.replace(partial, path)
