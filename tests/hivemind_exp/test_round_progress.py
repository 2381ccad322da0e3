"""Long work reports how far it is; short work reports nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp import round_progress
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.round_progress import REPORT_EVERY_S, WorkProgress
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import Events, make_config

SETTINGS = {
    "game": {"rounds": 2, "groups": 4, "group_size": 4},
    "generation": {"batch": 8, "max_completion_tokens": 8},
    "train": {"micro_batch": 4, "beta": 0.1},  # with a penalty, every row is trained
    "eval": {"questions": 6, "every": 0},
    "warmup": {"steps": 10},
}


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(round_progress, "time", made)
    return made


def told(events: Events) -> list[tuple[object, object]]:
    return [(each["done"], each["round"]) for each in events.of("phase")]


def test_work_is_reported_every_few_seconds_and_only_if_more_is_done(clock: Clock) -> None:
    events = Events()
    work = WorkProgress(events)
    work.look(lambda: 1)
    work.begin("generating completions", 10, 3)
    work.add(2)
    clock.now = REPORT_EVERY_S - 0.1
    work.add(2)
    assert told(events) == []
    clock.now = REPORT_EVERY_S
    work.look(lambda: 3)
    clock.now += 1
    work.add(1)
    assert told(events) == [(7, 3)]
    clock.now += REPORT_EVERY_S
    work.look(lambda: 2)
    assert told(events) == [(7, 3)], "nothing has changed"
    clock.now += REPORT_EVERY_S
    work.look(lambda: 100)
    assert told(events)[1:] == [(10, 3)]
    work.end()
    assert len(told(events)) == 2
    clock.now += REPORT_EVERY_S
    work.look(lambda: 1)
    assert len(told(events)) == 2, "it has ended"


def test_very_long_work_writes_few_events(clock: Clock) -> None:
    events = Events()
    work = WorkProgress(events)
    work.begin("generating completions", 10_000)
    for second in range(3600):
        clock.now = float(second)
        work.add(1)
    assert len(told(events)) < 60


def test_the_end_of_long_work_is_reported(clock: Clock) -> None:
    events = Events()
    work = WorkProgress(events)
    work.begin("evaluating", 10)
    clock.now = REPORT_EVERY_S
    work.add(4)
    work.end()
    assert told(events) == [(4, None), (10, None)]


def test_short_work_reports_nothing_and_asks_for_no_count(clock: Clock) -> None:
    events = Events()
    work = WorkProgress(events)
    work.begin("evaluating", 10)
    clock.now = REPORT_EVERY_S - 1
    work.look(lambda: pytest.fail("counting costs time"))
    work.end()
    assert told(events) == []


@pytest.mark.slow
def test_a_long_round_reports_its_completions_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_progress, "REPORT_EVERY_S", 0.0)  # as if every token took long
    monkeypatch.setattr(round_progress, "REPORT_SHARE", 0.0)
    events = Events()
    GRPORunner(make_config(**SETTINGS), NodeFiles(tmp_path), events).run()
    phases = events.of("phase")
    for round_ in range(2):
        made = [each for each in phases if each["name"] == "generating completions" and each["round"] == round_]
        assert {each["total"] for each in made} == {16}
        counts = [each["done"] for each in made]
        assert counts == sorted(counts)
        assert {8, 16} <= set(counts), "after each batch"
        rows = [each for each in phases if each["name"] == "training on completions" and each["round"] == round_]
        assert [(each["done"], each["total"]) for each in rows] == [(4, 16), (8, 16), (12, 16), (16, 16)]
    asked = [each["done"] for each in phases if each["name"] == "evaluating" and each["done"] is not None]
    assert asked[-1] == 6


@pytest.mark.slow
def test_a_quick_round_adds_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_progress, "REPORT_EVERY_S", 3600.0)
    events = Events()
    GRPORunner(make_config(**SETTINGS), NodeFiles(tmp_path), events).run()
    assert not [each for each in events.of("phase") if each["round"] is not None]
