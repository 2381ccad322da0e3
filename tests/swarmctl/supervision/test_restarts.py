"""Pauses between restarts, and when they end."""

from __future__ import annotations

from swarmctl.supervision.restarts import HEALTHY_S, LONGEST_S, Restarts


def test_pauses_double_up_to_a_limit_and_then_the_node_gives_up() -> None:
    restarts = Restarts(most=10)
    pauses = [restarts.ended(lasted_s=1, rounds=3) for _ in range(10)]
    assert pauses == [5, 10, 20, 40, 80, 160, 320, LONGEST_S, LONGEST_S, LONGEST_S]
    assert restarts.ended(lasted_s=1, rounds=3) is None
    assert restarts.total == 10


def test_a_long_run_with_a_new_round_starts_the_count_again() -> None:
    restarts = Restarts(most=3)
    assert [restarts.ended(lasted_s=1, rounds=0) for _ in range(2)] == [5, 10]
    assert restarts.ended(lasted_s=HEALTHY_S, rounds=1) == 5
    assert restarts.row == 1
    # The same round fails each time, however long that takes.
    assert [restarts.ended(lasted_s=2 * HEALTHY_S, rounds=0) for _ in range(3)] == [10, 20, None]


def test_no_restart_is_allowed() -> None:
    assert Restarts(most=0).ended(lasted_s=HEALTHY_S, rounds=5) is None
