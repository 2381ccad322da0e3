"""Whether another process makes progress, judged by its CPU time and state, not by the clock.

On a busy machine, a process may wait for a CPU for a long time. It is stuck only if it isn't even ready to run.
"""

import time
from contextlib import suppress
from typing import Literal

import psutil

State = Literal["running", "waiting", "asleep", "stopped", "ended"]
"""running: it used CPU time since the last look; waiting: for a CPU or a disk, or of unknown state; asleep: waiting
for something else, such as a reply; stopped: by a signal."""


class ProgressWatch:
    """Looks at one process again and again."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._used = -1.0

    def look(self) -> State:
        """Return what the process has done since the last look. The first look counts as running."""
        try:
            with self._process.oneshot():
                times, status = self._process.cpu_times(), self._process.status()
        except psutil.Error:
            return "ended"
        before, self._used = self._used, times.user + times.system
        if status == psutil.STATUS_ZOMBIE:
            return "ended"
        if self._used != before:
            return "running"
        if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return "stopped"
        return "asleep" if status in (psutil.STATUS_SLEEPING, psutil.STATUS_IDLE) else "waiting"


class ProcessClock:
    """A clock that stands still while a process waits for a CPU or a disk."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._looked, self._used = time.monotonic(), self._cpu_seconds()
        self._seconds = 0.0

    def look(self) -> float:
        """Return the seconds so far in which the process worked or slept.

        How the process is now counts for all the time since the last look.
        """
        now, before = time.monotonic(), self._used
        passed, self._looked = now - self._looked, now
        waits = False
        with suppress(psutil.Error), self._process.oneshot():  # it has ended
            self._used = self._cpu_seconds()
            waits = self._process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
        self._seconds += min(passed, self._used - before) if waits else passed
        return self._seconds

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system
