"""Wait for events in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.patience import LONG_S, Patience


def until(condition: Callable[[], object], seconds: float = LONG_S) -> None:
    """Return once ``condition()`` is true. Raises AssertionError after ``seconds`` (``Patience``)."""
    patience = Patience(seconds)
    while not condition():
        assert not patience.is_over(), f"it did not happen within {seconds:g} s"
        time.sleep(0.005)
