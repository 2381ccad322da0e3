"""Time limits in seconds of a quiet machine, so that no test fails because the machine is busy."""

from __future__ import annotations

import os
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LONG_S = 60.0
_LOAD = Path("/proc/loadavg")
_POLL_S = 0.5


def share() -> float:
    """Return the share of a CPU that a process gets now: 1.0 if there are as many CPUs as threads that are ready."""
    try:
        ready = float(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except OSError:  # not Linux
        ready = os.getloadavg()[0]
    return min(1.0, (os.cpu_count() or 1) / max(1.0, ready))


class Patience:
    """A time limit. A second counts as the share of a CPU that a process gets in it.

    Unlike CPU time, this also passes for a process that waits for something that never happens.
    """

    def __init__(self, seconds: float = LONG_S) -> None:
        self._seconds, self._passed, self._looked = seconds, 0.0, time.monotonic()

    def passed(self) -> float:
        """Return the seconds so far. How busy the machine is now counts for all the time since the last look."""
        before, self._looked = self._looked, time.monotonic()
        self._passed += (self._looked - before) * share()
        return self._passed

    def is_over(self) -> bool:
        return self.passed() >= self._seconds


def finish(process: Any, seconds: float = LONG_S, *, given: str | None = None) -> tuple[Any, Any]:
    """Wait for the end of a ``Popen``; return its output and what it wrote to stderr. Raises ``TimeoutExpired``.

    ``given``: what it reads from its stdin.
    """
    patience, read = Patience(seconds), [] if given is None else [given]
    while True:
        try:
            out, err = process.communicate(*read, timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            read = []  # it is being written
            if patience.is_over():
                raise
        else:
            return out, err


def joined(process: BaseProcess, seconds: float | None) -> bool:
    """Wait for the end of a process of ``multiprocessing``; return whether it has ended. None: without a limit."""
    patience = None if seconds is None else Patience(seconds)
    while process.exitcode is None and not (patience and patience.is_over()):
        process.join(_POLL_S)
    return process.exitcode is not None


def wait_for_end(process: Any, seconds: float = LONG_S) -> int:
    """Wait for the end of a ``Popen``; return its exit code. Raises ``TimeoutExpired``."""
    patience = Patience(seconds)
    while True:
        try:
            return int(process.wait(timeout=_POLL_S))
        except subprocess.TimeoutExpired:
            if patience.is_over():
                raise
