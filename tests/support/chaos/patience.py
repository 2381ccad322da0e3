"""How long to wait for nodes: the time in which they could act, so that a busy machine makes no test fail."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import psutil

from hivemind_exp.processes.progress import AbleTime

POLL_S = 0.25
_LOOK_S = 1.0
"""Seconds between two looks at the processes, each of which takes a few milliseconds."""


def descendants() -> set[psutil.Process]:
    """Return the processes that this one started, directly or not."""
    return set(psutil.Process(os.getpid()).children(recursive=True))


class Patience:
    """Counts the seconds in which all descendants of this process could act.

    While one of them waits for a CPU or a disk, only the CPU time that it gets counts. A descendant still counts when
    its parent has been killed.
    """

    def __init__(self) -> None:
        self._able: dict[psutil.Process, AbleTime] = {}
        self._counted: dict[psutil.Process, float] = {}
        self._looked = time.monotonic()
        self._passed = 0.0

    def passed(self) -> float:
        """Return the seconds so far, as of the last look."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return self._passed
        able = [now - self._looked]
        for process in {*descendants(), *self._able}:
            if not process.is_running():
                self._able.pop(process, None)
                continue
            with contextlib.suppress(psutil.Error):  # it has just ended
                if process in self._able:
                    counted = self._able[process].look()
                    able.append(counted - self._counted[process])
                    self._counted[process] = counted
                else:
                    self._able[process], self._counted[process] = AbleTime(process.pid), 0.0
        self._looked = now
        self._passed += min(able)
        return self._passed


_PATIENCE = Patience()
"""One for all waits, as it knows the descendants whose parents have been killed."""


def until(holds: Callable[[], object], seconds: float, meanwhile: Callable[[], object] | None = None) -> bool:
    """Wait until ``holds()`` is true; return whether that happened within ``seconds`` in which nodes could act."""
    begun = _PATIENCE.passed()
    while not (held := holds()) and _PATIENCE.passed() - begun < seconds:
        if meanwhile is not None:
            meanwhile()
        time.sleep(POLL_S)
    return bool(held)


def during(seconds: float, meanwhile: Callable[[], object], ends: Callable[[], object] = lambda: False) -> None:
    """Let ``seconds`` of the clock pass, or less if ``ends()`` becomes true."""
    end = time.monotonic() + seconds
    while not ends() and time.monotonic() < end:
        meanwhile()
        time.sleep(POLL_S)
