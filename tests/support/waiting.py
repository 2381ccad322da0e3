"""Wait for events in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 60.0


def until(condition: Callable[[], object], seconds: float = LONG_S) -> None:
    """Return once ``condition()`` is true. Raises AssertionError if that takes longer than ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)
