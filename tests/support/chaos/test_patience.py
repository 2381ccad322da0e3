"""Waiting for nodes."""

from __future__ import annotations

import pytest

from tests.support.chaos import patience
from tests.support.chaos.patience import during, until


def test_waits_end_with_the_event_or_with_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "POLL_S", 0.0)
    looks = iter((False, True))
    assert until(lambda: next(looks), 60)
    assert not until(lambda: False, 0.01)
    watched: list[int] = []
    during(60, lambda: watched.append(1), lambda: len(watched) > 1)
    assert watched == [1, 1]
