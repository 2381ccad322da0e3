"""The slot clock: the charter and the time determine the current stage, whatever happened before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.game.study_group.slot_schedule import SlotClock

LONGEST_SKEW = 3.0
"""Maximum difference in seconds between the clocks of a swarm. hivemind refuses more."""

clocks = st.builds(SlotClock, st.integers(0, 4_000_000_000), st.integers(1, 86_400), st.integers(1, 5))
moments = st.floats(-1e9, 8e9, allow_nan=False)


def number(clock: SlotClock, now: float) -> int:
    slot = clock.at(now)
    return slot.round * clock.stages + slot.stage


@given(clocks, moments)
def test_every_moment_lies_in_its_slot(clock: SlotClock, now: float) -> None:
    slot = clock.at(now)
    assert 0 <= slot.stage < clock.stages
    assert clock.begins(slot.round, slot.stage) <= now < clock.begins(slot.round, slot.stage) + clock.stage_time
    assert 0 < slot.left <= clock.stage_time


@given(clocks, st.integers(-1000, 1_000_000), st.integers(0, 4))
def test_a_slot_includes_its_start_and_excludes_its_end(clock: SlotClock, round_: int, stage: int) -> None:
    stage %= clock.stages
    start = clock.begins(round_, stage)
    assert (clock.at(start).round, clock.at(start).stage) == (round_, stage)
    assert clock.at(start).left == clock.stage_time
    last = math.nextafter(start + clock.stage_time, -math.inf)
    assert (clock.at(last).round, clock.at(last).stage) == (round_, stage)


@pytest.mark.slow
@given(clocks, moments, moments)
def test_time_never_runs_backward(clock: SlotClock, one: float, other: float) -> None:
    first, second = sorted((one, other))
    assert number(clock, first) <= number(clock, second)


@given(
    st.integers(0, 4_000_000_000),
    st.integers(4, 86_400),
    st.floats(0, 1e8),
    st.floats(-LONGEST_SKEW, LONGEST_SKEW),
)
def test_skewed_clocks_disagree_only_near_a_boundary(t0: int, stage_time: int, since: float, skew: float) -> None:
    clock = SlotClock(t0, stage_time, 3)
    now = t0 + since
    mine, theirs = number(clock, now), number(clock, now + skew)
    assert abs(mine - theirs) <= 1
    if mine != theirs:
        boundary = t0 + max(mine, theirs) * stage_time
        assert abs(now - boundary) <= abs(skew)


@given(clocks, moments, st.lists(moments, max_size=5))
def test_late_joiners_and_split_halves_agree_on_the_slot(clock: SlotClock, now: float, past: list[float]) -> None:
    """Earlier calls of a node's clock, or none at all, make no difference."""
    long_there = SlotClock(clock.t0, clock.stage_time, clock.stages)
    for moment in past:
        long_there.at(moment)
    assert long_there.at(now) == SlotClock(clock.t0, clock.stage_time, clock.stages).at(now)


@pytest.mark.parametrize(("stage_time", "stages"), [(0, 3), (-1, 3), (10, 0)])
def test_rounds_without_length_are_refused(stage_time: int, stages: int) -> None:
    with pytest.raises(ValueError, match="invalid round: "):
        SlotClock(0, stage_time, stages)
