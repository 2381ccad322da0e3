"""The node's lock (flock), held as long as its supervisor or trainer lives, so no reused pid can be mistaken for it.

No library is used: the trainer inherits the open descriptor, and must keep the lock if its supervisor is killed.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path

from swarmctl.storage.json_file import now


def acquire(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock; return False if another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process has the lock. Changes nothing."""
    try:
        with path.open("rb") as lock:
            return not acquire(lock.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def write_holder(lock: int, trainer: int | None) -> None:
    """Write the holder to the lock file, for users and ``status``. Only the lock itself shows whether it is held."""
    content = json.dumps({"pid": os.getpid(), "trainer": trainer, "since": now()}).encode() + b"\n"
    with contextlib.suppress(OSError):  # a node must start even on a full disk, so that it can report it
        os.ftruncate(lock, 0)
        os.pwrite(lock, content, 0)


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists and has not ended. A zombie has ended."""
    import psutil  # imported here: most commands do not need it

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
