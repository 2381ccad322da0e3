"""Whether the kernel killed a trainer because memory ran out, in numbers."""

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import psutil

from hivemind_exp.control_group import container_memory

_LOOKS_PER_SIZE = 5
"""Looks between two measurements of the memory, which read the list of all processes."""


class MemoryWatch:
    """Looks at a trainer's memory, and at the kernel's count of processes that it killed for memory."""

    def __init__(self, pid: int, *, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._pid = pid
        self._proc, self._groups = proc, groups
        self._counter = _own_counter(proc / str(pid) / "cgroup", groups) or proc / "vmstat"
        # The count at the latest two looks: a process that is being killed takes a while to end.
        self._kills = deque([_kills(self._counter)], maxlen=2)
        self.peak = 0
        """The most memory in use at any look, in bytes."""
        self._looks = itertools.count()
        self.limit = _limit(proc / str(pid) / "cgroup", groups)
        """The memory that the trainer may use, in bytes: its container's, or the machine's."""

    def look(self) -> None:
        """Remember the memory in use, and the kernel's count so far."""
        if next(self._looks) % _LOOKS_PER_SIZE == 0:
            self.peak = max(self.peak, used_by(self._pid))
        self._kills.append(_kills(self._counter))

    def was_killed(self) -> bool | None:
        """Whether the kernel has killed a process for memory within the last looks; None if it does not say."""
        before, now = self._kills[0], _kills(self._counter)
        return None if now is None or before is None else now > before

    @property
    def figures(self) -> str:
        """The memory in use and the limit, such as ``7.9 of 8.0 GiB``."""
        unit, name = (2**30, "GiB") if self.limit >= 2**30 else (2**20, "MiB")
        return f"{min(self.peak, self.limit) / unit:.1f} of {self.limit / unit:.1f} {name}"


def used_by(pid: int) -> int:
    """Return the bytes of memory that a process and its children use; 0 if it has ended."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                memory = child.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)  # counted in the trainer already
    return total


def _limit(own: Path, groups: Path) -> int:
    limit, _ = container_memory(groups, own)
    machine = int(psutil.virtual_memory().total)
    return machine if limit is None else min(limit, machine)


def _own_counter(own: Path, groups: Path) -> Path | None:
    """Return the file in which the kernel counts what it killed for memory in a process's control group."""
    try:
        lines = [line.split(":", 2)[1:] for line in own.read_text().splitlines()]
    except OSError:
        return None
    return next((path for controllers, group in lines for path in _counters(controllers, group, groups)), None)


def _counters(controllers: str, group: str, groups: Path) -> Iterator[Path]:
    inside = group.strip("/")
    if "memory" in controllers.split(","):
        candidates = [groups / "memory" / inside / "memory.oom_control", groups / "memory" / "memory.oom_control"]
    elif controllers == "":
        candidates = [groups / inside / "memory.events", groups / "memory.events"]
    else:
        candidates = []
    yield from (path for path in candidates if _kills(path) is not None)


def _kills(counter: Path) -> int | None:
    """Return the number of processes killed for memory; None if it is unknown."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError):
        values = dict(line.split(maxsplit=1) for line in counter.read_text().splitlines() if " " in line)
        return int(values["oom_kill"]) if "oom_kill" in values else None
    return None
