"""The limits of this process's control group on Linux, as a container or a service manager sets them.

``psutil`` and ``os.cpu_count`` report only the whole machine.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
PROCESSORS = Path("/sys/devices/system/cpu")
"""Where Linux describes each logical processor."""
_UNLIMITED = 1 << 60
"""Bytes. Control groups of the first version report a huge number instead of no limit."""


def container_memory(root: Path = ROOT, own: Path = OWN) -> tuple[int | None, int]:
    """Return the memory limit that leaves the least room, and the bytes used under it; a limit of None means unlimited.

    Files that the kernel can drop from its cache at once do not count as used.
    """
    limits: list[tuple[int, int]] = []
    for directory, unified in _directories("memory", root, own):
        limit_name, used_name, cached_name = (
            ("memory.max", "memory.current", "inactive_file")
            if unified
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        with suppress(OSError, ValueError):
            limit, used = int((directory / limit_name).read_text()), int((directory / used_name).read_text())
            if limit < _UNLIMITED:
                limits.append((limit, max(0, used - _counter(directory / "memory.stat", cached_name))))
    return min(limits, key=lambda found: found[0] - found[1], default=(None, 0))


def usable_cores(root: Path = ROOT, own: Path = OWN) -> int:
    """Return how many cores this process can keep busy: those it may run on, at most what its CPU time allows."""
    return _limited(len(_processors()), root, own)


def usable_physical_cores(root: Path = ROOT, own: Path = OWN, processors: Path = PROCESSORS) -> int:
    """Return ``usable_cores``, but count a core that runs two threads at once as one.

    The two share one unit for matrix products, which one thread keeps busy.
    """
    cores = set()
    for number in _processors():
        with suppress(OSError):
            cores.add((processors / f"cpu{number}" / "topology" / "thread_siblings_list").read_text())
    return _limited(len(cores) or _physical(), root, own)


def _physical() -> int:
    """Return the machine's cores, for systems that do not describe their processors in files."""
    import psutil  # imported here: it takes as long as a fast command may take in all

    return psutil.cpu_count(logical=False) or len(_processors())


def _processors() -> set[int]:
    """Return the numbers of the logical processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _limited(cores: int, root: Path, own: Path) -> int:
    quotas = [_quota(directory, unified) for directory, unified in _directories("cpu", root, own)]
    return max(1, min([cores, *(ceil(quota) for quota in quotas if quota is not None)]))


def _directories(controller: str, root: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the group's directory and its parents', whose limits hold, too; and whether they are of version 2."""
    try:
        groups = [line.split(":", 2)[1:] for line in own.read_text().splitlines()]
    except OSError:
        return
    for controllers, path in (group for group in groups if len(group) == 2):
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        base = root / controller if controllers else root
        inside = PurePosixPath(path.strip("/"))
        for each in (inside, *inside.parents):
            yield base / each, not controllers


def _quota(directory: Path, unified: bool) -> float | None:
    """Return the CPU time per time that a group may use; None if it is not limited."""
    with suppress(OSError, ValueError):
        if unified:
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None


def _counter(statistics: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in statistics.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
