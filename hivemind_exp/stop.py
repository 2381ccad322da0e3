"""Stop requests: how to ask a node to stop, and how its parts notice."""

import os
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

BEAT_S = 1.0
"""Seconds between two signs of life."""
POLL_S = 0.05


class StopRequested(Exception):
    """Raised between two pieces of work after a stop was requested. Unfinished work leaves no trace."""


class StopFlag(threading.Event):
    """Set from a signal handler or another thread, and checked wherever work can be interrupted."""

    def requested(self) -> bool:
        """Whether a stop was requested. Shows no life (``BeatingFlag``)."""
        return threading.Event.is_set(self)

    def check(self) -> None:
        """Raise ``StopRequested`` if a stop was requested."""
        if self.is_set():
            raise StopRequested

    def wait_for(self, work: Collection[Future[Any]], deadline: float | None = None) -> None:
        """Wait until all of ``work`` is done, or until ``deadline`` (``time.monotonic``). Raises ``StopRequested``."""
        left = set(work)
        while left and (deadline is None or time.monotonic() < deadline):
            self.check()
            left -= wait(left, POLL_S, return_when=FIRST_COMPLETED).done

    def check_later(self, seconds: float) -> Callable[[], None]:
        """Return a ``check`` that allows so many seconds after it first notices the request."""
        deadline: float | None = None

        def check() -> None:
            nonlocal deadline
            if self.is_set():
                deadline = time.monotonic() + seconds if deadline is None else deadline
                if time.monotonic() > deadline:
                    raise StopRequested

        return check


class BeatingFlag(StopFlag):
    """Also shows that the node works: the main thread's checks renew the time of a file, which a supervisor watches.

    Checks happen at every generated token, between micro-batches and in every wait, so a node that no longer checks
    hangs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._beaten = -BEAT_S

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S and threading.current_thread() is threading.main_thread():
            self._beaten = now
            self.beat()
        return super().is_set()

    def beat(self) -> None:
        """Show life now."""
        with suppress(OSError):  # the node's directory was deleted
            os.utime(self._path)
