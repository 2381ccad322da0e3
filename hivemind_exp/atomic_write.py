"""Files written whole: under their name only once they are on the disk, or not at all. Imports nothing of ours.

Whole directories (checkpoints, parcels for the hub, new nodes) are renamed into place by those who fill them; logs and
locks are written in place, since what is appended or locked must stay the same file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
READABLE = 0o644


@contextmanager
def new_file(path: Path, mode: int | None = PRIVATE, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Give a file to fill; at the end of the block it is synced and takes the name ``path``, also from a link.

    Args:
        path: its directory must exist.
        mode: of the new file; None keeps that of the file it replaces, else what the umask leaves.
        exclusive: replace nothing.

    Raises:
        FileExistsError: with ``exclusive``, where ``path`` is taken, if only by a link that leads nowhere.
        OSError: it cannot be written. What was there before is untouched, as it is after any error in the block.
    """
    if mode is None and path.is_file():
        mode = stat.S_IMODE(path.stat().st_mode)
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
    finally:
        partial.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems refuse this for a directory, and the file has its name already
        sync(path.parent)


def write(path: Path, content: str | bytes, mode: int | None = PRIVATE, *, exclusive: bool = False) -> None:
    """Write a file as ``new_file`` does; text as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    with new_file(path, mode, exclusive=exclusive) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Return once a file, or the names in a directory, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_free_name(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, this fails where the name is taken
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links: the next best
        if os.path.lexists(path):
            raise FileExistsError(EEXIST, os.strerror(EEXIST), str(path)) from error
        os.replace(partial, path)
