"""Wait for room on a full disk."""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.terminal.sentences import several, size

_LEAST = 16 * 2**20
"""Bytes that must be free before a node continues, at least."""
_FEWEST = 32
"""Files that must fit before a node continues, at least: a database has up to three, a process several."""
_CHECKPOINTS = 2
"""A node continues if this many checkpoints fit, so that it does not stop again at once."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on a disk, or needed."""

    bytes: int
    files: int | None
    """None: the file system does not limit their number."""

    def lacks(self, free: "Room") -> str | None:
        """Return what ``free`` has too little of, in words that say how much; None if it is enough."""
        if free.bytes < self.bytes:
            return f"{size(free.bytes)} free"
        if free.files is not None and self.files is not None and free.files < self.files:
            return f"{several(free.files, 'inode')} free"
        return None

    def wanted(self, free: "Room") -> str:
        """Return how much must be free of what ``free`` has too little of."""
        few = free.files is not None and self.files is not None and free.files < self.files
        return f"{self.files} inodes" if few and free.bytes >= self.bytes else size(self.bytes)


def needed(files: NodeFiles) -> Room:
    """Return what must be free before a node continues."""
    with suppress(OSError):
        newest = max(files.checkpoints.glob("[0-9]*"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            sizes = [path.stat().st_size for path in newest.rglob("*") if path.is_file()]
            return Room(_LEAST + _CHECKPOINTS * sum(sizes), _FEWEST + _CHECKPOINTS * len(sizes))
    return Room(_LEAST, _FEWEST)


def free(root: Path) -> int:
    """Return the bytes free on a directory's disk; 0 if it cannot be read."""
    return room_at(root).bytes


def room_at(root: Path) -> Room:
    """Return what is free on a directory's disk; nothing if it cannot be read."""
    with suppress(OSError):
        disk = os.statvfs(root)
        return Room(shutil.disk_usage(root).free, disk.f_favail if disk.f_files else None)
    return Room(0, 0)


def has_room(root: Path, room: Room) -> bool:
    """Whether so much can be written to a directory. A quota would stop it in spite of free space."""
    if room.lacks(room_at(root)) is not None:
        return False
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, room.bytes)
            else:
                file.write(bytes(_LEAST))
    except OSError:
        return False
    return True
