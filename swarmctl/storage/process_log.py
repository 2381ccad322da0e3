"""Logs that child processes write to directly: no logging library can rotate them."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from hivemind_exp import atomic_write

LOG_LIMIT = 10 * 1024 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending and reading; rotate a large one first.

    No logging library is involved: the child and its libraries write to the file descriptor directly.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab+", buffering=0)


def limit_log(log: BinaryIO, path: Path) -> None:
    """Move the content of a large log to ``FILE.1`` while it is written to. On a full disk, nothing changes.

    The file stays the same, because the child and its own processes have it open. What they write between the copy and
    the cut is lost.
    """
    with contextlib.suppress(OSError):
        if os.fstat(log.fileno()).st_size > LOG_LIMIT:
            log.seek(0)
            with atomic_write.new_file(path.with_name(path.name + ".1")) as older:
                shutil.copyfileobj(log, older)
            os.ftruncate(log.fileno(), 0)


def tail(log: BinaryIO, start: int, size: int = 65536) -> bytes:
    """Return the end of a log since ``start``, even if the file was renamed, deleted or truncated."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - size) if start <= end else max(0, end - size))
    return log.read()
