"""What a full disk lacks, in words: room, or inodes for further files."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from hivemind_exp.errors import DiskFull


def disk_full(what: str, directory: Path) -> DiskFull:
    """Return the error that ``what`` (such as ``the journal``) does not fit on a directory's disk."""
    place = shlex.quote(str(directory))
    if lacks_inodes(directory):
        return DiskFull(f"no inodes left for {what}", next=f"df -i {place}")
    return DiskFull(f"no space left for {what}", next=f"df -h {place}")


def lacks_inodes(directory: Path) -> bool:
    """Whether a directory's disk can hold no further file, however small."""
    with suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_files > 0 and disk.f_favail == 0
    return False
