"""The node's lock (flock), held as long as its supervisor or trainer lives, so no reused pid can be mistaken for it.

No library is used: the trainer inherits the open descriptor, and must keep the lock if its supervisor is killed.
"""

import contextlib
import fcntl
import json
import os
import platform
import random
import time
from pathlib import Path
from typing import Any

from hivemind_exp.formats import FORMAT
from swarmctl.storage.json_file import now, read_json

_SIZE = 1024
"""Bytes of the holder's description. It is padded, so that it can be replaced on a full disk, too."""
_LOOKS, _LOOK_S = 100, 0.05
"""How often the lock is tried again, and after how long, if another process only looks at it."""


def acquire(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock; return False if another process has it.

    A process that only looks whether it is held (``is_held``) does not count: it has it for a moment, in shared mode.
    """
    for _ in range(_LOOKS):
        if _try(descriptor, kind):
            return True
        if kind == fcntl.LOCK_SH or not _try(descriptor, fcntl.LOCK_SH):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.2, 1) * _LOOK_S)  # not in step with another process that waits, too
    return False


def _try(descriptor: int, kind: int) -> bool:
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


def write_holder(
    lock: int, trainer: int | None, *, since: str | None = None, restarts: int = 0, doing: dict[str, Any] | None = None
) -> None:
    """Write the holder to the lock file, for users and ``status``. Only the lock itself shows whether it is held.

    ``since``: when the run began (RFC 3339); None: now. ``restarts``: how often its trainer was restarted. ``doing``:
    what the supervisor does while no trainer works, as ``state``, ``detail`` and ``until``.
    """
    described = {
        "schema": FORMAT,
        "where": here(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
        "trainer": trainer,
        "trainer_started": None if trainer is None else start_of(trainer),
        "since": since or now(),
        "restarts": restarts,
        "doing": doing,
    }
    content = json.dumps(described).encode()
    with contextlib.suppress(OSError):  # a node must start even on a full disk, so that it can report it
        os.pwrite(lock, content.ljust(_SIZE - 1) + b"\n", 0)
        os.ftruncate(lock, max(_SIZE, len(content) + 1))


def holder(path: Path) -> dict[str, Any]:
    """Return who holds the lock, as ``write_holder`` wrote it; empty if it is unknown.

    ``pid`` and ``trainer`` are None if that process has ended, even if its number now belongs to another process, and
    if ``elsewhere`` is true: the node runs in a container or on another machine, where numbers mean other processes.
    """
    found = read_json(path) or {}
    found["elsewhere"] = found.get("where") not in (None, here())
    if found["elsewhere"]:
        return found | {"pid": None, "trainer": None}
    for key, started in (("pid", "started"), ("trainer", "trainer_started")):
        pid = found.get(key)
        if not isinstance(pid, int) or not is_alive(pid, found.get(started)):
            found[key] = None
    return found


def here() -> str:
    """Return what tells this system's processes from those of other machines and containers."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def start_of(pid: int) -> str | None:
    """Return what tells a process from later ones with the same number: when it started; None if it has ended.

    On Linux, the start is counted in clock ticks since the boot, which setting the clock does not change.
    """
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    import psutil  # imported here: most commands do not need it

    with contextlib.suppress(psutil.Error):
        return f"{psutil.Process(pid).create_time():.3f}"
    return None


def is_alive(pid: int, started: object = None) -> bool:
    """Whether a process with this id exists and has not ended. A zombie has ended.

    ``started``: what ``start_of`` returned for the process; None if it is unknown. Another process is not it.
    """
    import psutil

    try:
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return not ended and (started is None or started == start_of(pid))
