"""Pauses between retries."""

from __future__ import annotations

from hivemind_exp.backoff import growing, jittered


def test_a_pause_doubles_up_to_the_longest() -> None:
    assert [growing(step, first=0.25, longest=8.0) for step in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert growing(2, first=2.0, longest=60.0, factor=1.5) == 4.5
    assert growing(10**6, first=30.0, longest=600.0) == 600.0


def test_jitter_varies_within_its_bounds() -> None:
    pauses = [jittered(8.0, 0.25) for _ in range(200)]
    assert all(6.0 <= pause <= 10.0 for pause in pauses)
    assert min(pauses) < 7.0
    assert max(pauses) > 9.0
    assert jittered(8.0, 0.0) == 8.0
