"""The lock of a node: held (flock) for as long as supervisor or trainer live, so no pid can be mistaken for it.

No library: the trainer inherits the open descriptor, and must keep the lock when its supervisor is killed.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path

from swarmctl.storage.json_file import now


def acquire(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock; return False where someone else has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether someone has the lock; touches nothing."""
    try:
        with path.open("rb") as lock:
            return not acquire(lock.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def write_holder(lock: int, trainer: int | None) -> None:
    """Write into the lock file who holds it: for people and ``status``; the lock itself is the truth."""
    content = json.dumps({"pid": os.getpid(), "trainer": trainer, "since": now()}).encode() + b"\n"
    with contextlib.suppress(OSError):  # a full disk must not keep a node from starting to say so
        os.ftruncate(lock, 0)
        os.pwrite(lock, content, 0)


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id."""
    import psutil  # most commands do without

    return psutil.pid_exists(pid)
