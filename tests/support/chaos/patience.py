"""Waiting for nodes, in seconds that count as ``tests.support.patience.Patience`` does."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.patience import Patience

POLL_S = 0.25


def until(holds: Callable[[], object], seconds: float, meanwhile: Callable[[], object] | None = None) -> bool:
    """Wait until ``holds()`` is true; return whether that happened within ``seconds``."""
    patience = Patience(seconds)
    while not (held := holds()) and not patience.is_over():
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
