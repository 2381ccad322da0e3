"""A swarm's schedule: the next stage for nodes that are fast, slow or late, or whose clock is set back."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.game.base import SequentialSchedule
from hivemind_exp.game.study_group.slot_schedule import SlotClock, SlotSchedule
from hivemind_exp.game_settings import STAGE_NAMES as STAGES
from hivemind_exp.journal.records import StageRun
from hivemind_exp.trainer.round_loop import NodeProgress, RoundCursor

CLOCK = SlotClock(1_000_000, 60, len(STAGES))


class Player:
    """Plays one stage after another, each of which takes some time."""

    def __init__(self, now: float, clock: SlotClock = CLOCK, stages: tuple[str, ...] = STAGES) -> None:
        self.now = now
        self.parts: dict[tuple[int, str], int] = defaultdict(int)
        slots = SlotSchedule(clock, stages, lambda round_, stage: self.parts[round_, stage], lambda: self.now)
        self.cursor = RoundCursor(slots, NodeProgress())
        self.played: list[tuple[float, StageRun]] = []

    def play(self, seconds: float) -> None:
        stage_run = self.cursor.next()
        self.played.append((self.now, stage_run))
        self.parts[stage_run.round, stage_run.stage] += 1
        self.cursor.advance(stage_run, self.cursor.progress.round)
        self.now += seconds
        self.cursor.next_stage()


starts = st.floats(1_000_000, 1_001_000)
durations = st.lists(st.floats(0.5, 200), min_size=1, max_size=40)


@given(starts, durations)
def test_a_node_plays_the_current_round_and_answers_first(start: float, takes: list[float]) -> None:
    player = Player(start)
    for seconds in takes:
        player.play(seconds)
    answered: dict[int, int] = defaultdict(int)
    for now, stage_run in player.played:
        slot = CLOCK.at(now)
        assert stage_run.round == slot.round
        assert stage_run.stage in (STAGES[slot.stage], STAGES[0])
        if stage_run.stage == STAGES[0]:
            assert stage_run.chunk == answered[stage_run.round]
            answered[stage_run.round] += 1
        else:
            assert answered[stage_run.round] > stage_run.chunk
    assert player.cursor.progress.step == len(takes)
    rounds = [stage_run.round for _, stage_run in player.played]
    assert rounds == sorted(rounds)
    over = len(set(rounds)) - (CLOCK.at(player.now).round == rounds[-1])
    assert player.cursor.progress.round == over


@pytest.mark.slow
@given(starts, st.lists(st.floats(0.5, 9), min_size=60, max_size=80))
def test_a_fast_node_continues_through_the_questions_without_a_gap(start: float, takes: list[float]) -> None:
    player = Player(start)
    for seconds in takes:
        player.play(seconds)
    parts: dict[tuple[int, str], list[int]] = defaultdict(list)
    for _, stage_run in player.played:
        parts[stage_run.round, stage_run.stage].append(stage_run.chunk)
    assert all(found == list(range(len(found))) for found in parts.values())
    assert max(map(len, parts.values())) > 1


def test_a_late_node_answers_and_then_plays_the_current_stage() -> None:
    player = Player(CLOCK.begins(7, 1) + 10)
    player.play(10)
    player.play(10)
    assert [stage_run for _, stage_run in player.played] == [StageRun(7, "answer"), StageRun(7, "critique")]


def test_a_step_longer_than_a_slot_never_stops_a_node() -> None:
    three = ("answer", "critique", "resolve")
    player = Player(1_000_000, SlotClock(1_000_000, 60, len(three)), three)
    for _ in range(6):
        player.play(100)
    assert [(stage_run.round, stage_run.stage) for _, stage_run in player.played] == [
        (0, "answer"), (0, "critique"), (1, "answer"), (1, "resolve"), (2, "answer"), (2, "resolve"),
    ]  # fmt: skip


def test_a_clock_set_back_does_not_repeat_rounds() -> None:
    player = Player(CLOCK.begins(5, 0) + 1)
    player.play(5)
    player.now = CLOCK.begins(3, 2)
    player.play(1)
    assert [stage_run for _, stage_run in player.played] == [StageRun(5, "answer", 0), StageRun(5, "answer", 1)]


def test_before_the_start_the_first_slot_is_played() -> None:
    assert Player(CLOCK.begins(-4, 1)).cursor.next() == StageRun(0, "answer")


def test_the_schedule_returns_the_seconds_left_in_a_slot() -> None:
    slots = SlotSchedule(CLOCK, STAGES, lambda *_: 0, lambda: CLOCK.begins(3, 1) + 45.0)
    assert slots.left() == 15


def test_without_a_clock_stages_follow_each_other_without_a_limit() -> None:
    pace = SequentialSchedule(STAGES)
    turns, last = [], None
    for _ in range(len(STAGES) + 1):
        turns.append(last := pace.next(last, finished=2))
    assert turns == [*(StageRun(2, stage) for stage in STAGES), StageRun(3, STAGES[0])]
    assert pace.left() is None
