"""Whether another process makes progress, judged by its CPU time and state, not by the clock.

On a busy machine, a process may wait for a CPU for a long time. It is stuck only if it isn't even ready to run.
"""

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
        if self._used != before:
            return "running"
        if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return "stopped"
        return "asleep" if status in (psutil.STATUS_SLEEPING, psutil.STATUS_IDLE) else "waiting"
