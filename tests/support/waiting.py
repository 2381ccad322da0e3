"""Wait for events in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.patience import LONG_S, Patience

_SHORTEST_S, _LONGEST_S = 0.005, 0.05
_SHARE = 0.02
"""Looks take time from what the test waits for, so the pause between two of them is this share of the time so far."""


def until(condition: Callable[[], object], seconds: float = LONG_S) -> None:
    """Return once ``condition()`` is true. Raises AssertionError after ``seconds`` (``Patience``)."""
    patience, began = Patience(seconds), time.monotonic()
    while not condition():
        assert not patience.is_over(), f"it did not happen within {seconds:g} s"
        time.sleep(min(_LONGEST_S, max(_SHORTEST_S, _SHARE * (time.monotonic() - began))))
