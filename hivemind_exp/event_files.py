"""The files of a node's log: ``events.jsonl``, and its older parts ``events-000001.jsonl``, ``events-000002.jsonl``, …

The node renames ``events.jsonl`` to the next part when it has become large, and deletes the oldest parts. A part never
changes, and its number is never used again while a newer one exists. So every event is in exactly one file, even if
the node is killed between two of these actions.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path

_PARTS = 8
"""The log is rotated when a file has this fraction of all the bytes that are kept."""
_DIGITS = 6
_LOCK_TRIES, _LOCK_WAIT_S = 50, 0.01
"""Tries, and seconds between two of them."""


class LogFile:
    """Appends lines, one write per line, so that a reader never sees half a line.

    A file that is renamed or deleted (logrotate) is created again.
    """

    def __init__(self, path: Path, most: int = 0) -> None:
        """``most``: bytes of the file and its older parts that are kept; 0: all. Raises OSError."""
        self._path, self._most = path, most
        self._open()

    def append(self, line: bytes) -> None:
        """Append a line. Raises OSError."""
        # Without the lock, another process could rename the file between the check and the write, and a reader that
        # follows it would already have left it.
        lock_briefly(self._fd)
        try:
            while not is_still(self._path, self._fd):
                self._reopen()
            if self._most and os.fstat(self._fd).st_size + len(line) > _part_size(self._most):
                _rotate(self._path, self._most)
                self._reopen()
            while line:
                line = line[os.write(self._fd, line) :]  # less than a line, if the disk becomes full
        finally:
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":  # a full disk has cut the last line short
            os.write(self._fd, b"\n")

    def _reopen(self) -> None:
        before = self._fd
        self._open()
        os.close(before)  # with its lock
        lock_briefly(self._fd)


def older_parts(events: Path) -> list[Path]:
    """Return the older parts of a log, oldest first."""
    return [path for _, path in sorted(_numbered(events))]


def exists(events: Path) -> bool:
    """Whether a log has any file."""
    return events.exists() or bool(older_parts(events))


def open_all(events: Path) -> list[FileIO]:
    """Open a log's files as they are at one moment, oldest first. Raises OSError."""
    while True:
        paths = [*older_parts(events), events]
        files = [file for path in paths if (file := _opened(path)) is not None]
        current = files[-1].fileno() if files and files[-1].name == events else None
        still = is_still(events, current) or (current is None and _is_special(events))
        if older_parts(events) == paths[:-1] and still:
            return files
        for file in files:  # the log was rotated meanwhile
            file.close()


def lines(events: Path) -> Iterator[bytes]:
    """Yield the lines of all of a log's files, oldest first. Raises OSError."""
    for file in open_all(events):
        with BufferedReader(file) as part:
            yield from part


def tail(events: Path, size: int) -> list[bytes]:
    """Return the whole lines in the last ``size`` bytes of a log. Raises OSError."""
    data, whole = b"", True
    for file in reversed(open_all(events)):
        with file:
            end = file.seek(0, os.SEEK_END)
            start = max(0, end - (size - len(data)))
            file.seek(start)
            data, whole = file.read(end - start) + data, whole and start == 0
    return data.splitlines(keepends=True)[0 if whole else 1 :]


def is_still(path: Path, descriptor: int | None) -> bool:
    """Whether a path leads to an open file, or to nothing if that is None."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return descriptor is None
    return descriptor is not None and os.path.samestat(found, os.fstat(descriptor))


def lock_briefly(descriptor: int) -> None:
    """Lock a file, or give up soon: the process that holds the lock may have been stopped by a signal."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_S)
        except OSError:  # a file system without locks
            return
        else:
            return


def _part_size(most: int) -> int:
    """Return the most bytes of one file, if all files together may have ``most``."""
    return max(1, most // _PARTS)


def _rotate(events: Path, most: int) -> None:
    """Make a log's file its newest part, and delete the oldest ones beyond ``most`` bytes.

    Without permission or room in the directory, the file just becomes larger.
    """
    number = 1 + max((number for number, _ in _numbered(events)), default=0)
    with suppress(OSError):
        events.rename(events.with_name(f"{events.stem}-{number:0{_DIGITS}}{events.suffix}"))
        parts = older_parts(events)
        sizes = [each.stat().st_size for each in parts]
        room = most - _part_size(most)  # for the file that begins now
        for index, each in enumerate(parts[:-1]):
            if sum(sizes[index:]) > room:
                each.unlink()


def _numbered(events: Path) -> Iterator[tuple[int, Path]]:
    name = re.compile(rf"{re.escape(events.stem)}-([0-9]+){re.escape(events.suffix)}")
    with suppress(FileNotFoundError), os.scandir(events.parent) as entries:
        for entry in entries:
            if found := name.fullmatch(entry.name):
                yield int(found[1]), events.with_name(entry.name)


def _is_special(path: Path) -> bool:
    """Whether a path leads to a device or a pipe. They can be endless, or wait for somebody else."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _opened(path: Path) -> FileIO | None:
    if _is_special(path):
        return None
    try:
        return FileIO(path)
    except FileNotFoundError:
        return None
