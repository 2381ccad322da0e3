"""Why a file cannot grow, in words: the disk lacks room or inodes, or a file size limit is reached."""

import os
import resource
import shlex
from contextlib import suppress
from pathlib import Path

from hivemind_exp.errors import DiskFull

_ROOM_BYTES = 1 << 20
"""With so much room, a write that failed did not fail for the lack of it."""


def disk_full(what: str, directory: Path) -> DiskFull:
    """Return the error that ``what`` (such as ``the journal``) cannot grow in a directory.

    For libraries that say so without the system's error number, such as SQLite.
    """
    place = shlex.quote(str(directory))
    if lacks_inodes(directory):
        return DiskFull(f"no inodes left for {what}", next=f"df -i {place}")
    if _has_room(directory) and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return size_limit_reached(f"cannot write {what}")
    return DiskFull(f"no space left for {what}", next=f"df -h {place}")


def size_limit_reached(problem: str) -> DiskFull:
    """Return the error for a limit on the size of files. ``problem``: what cannot be done."""
    return DiskFull(f"{problem}: the file size limit is reached (ulimit -f)", next="ulimit -f unlimited")


def lacks_inodes(directory: Path) -> bool:
    """Whether a directory's disk can hold no further file, however small."""
    with suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_files > 0 and disk.f_favail == 0
    return False


def _has_room(directory: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_bavail * disk.f_frsize > _ROOM_BYTES
    return False
