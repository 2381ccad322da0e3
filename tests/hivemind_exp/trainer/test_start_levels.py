"""A curriculum starts at the easiest level that a new node does not master."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.start_levels import ASKED, AtLevel, asked_at, find_levels

TASKS = [
    TaskConfig(name="chain_sum", params={"min_terms": 2, "max_terms": 6, "min_digits": 1, "max_digits": 4}),
    TaskConfig(name="spell_backward"),
]


@pytest.fixture(scope="module")
def tasks() -> Iterator[Mixture]:
    made = Mixture(TASKS, charter=b"", secret=b"s", heldout=2, verifiers=1, curriculum=True)
    with closing(made):
        yield made


class Answers:
    """Answers correctly a given number of questions in ``ASKED``, by level."""

    def __init__(self, *right: int) -> None:
        self.right, self.levels = right, list[int]()

    def __call__(self, asked: Sequence[Question]) -> list[bool]:
        (level,) = {question.level for question in asked}
        assert level is not None
        assert {question.task for question in asked} == {"chain_sum"}
        self.levels.append(level)
        return [place < self.right[level] for place in range(len(asked))]


ALL, MOST, SOME, FEW = ASKED, ASKED - 1, ASKED // 2, 1


@pytest.mark.parametrize(
    ("right", "start"),
    [
        ((ALL, SOME, SOME, FEW, 0, 0, 0), 1),
        ((ALL, ALL, MOST, ALL, SOME, FEW, 0), 4),  # 15 of 16 are more than nine tenths
        ((ALL, ALL, ALL, FEW, 0, 0, 0), 2),  # no level is in between, so it starts where something is right
        ((ALL,) * 7, 6),
    ],
)
def test_it_starts_at_the_easiest_level_that_is_not_mastered(tasks: Mixture, right: Sequence[int], start: int) -> None:
    answers = Answers(*right)
    assert tasks.levels()["chain_sum"] == len(right)
    assert find_levels(tasks, {"chain_sum": 0.95}, answers)["chain_sum"] == start
    assert len(answers.levels) <= 3, "bisected"
    assert tasks.pacing is None, "rounds are asked as before"


@pytest.mark.parametrize("easiest", [{}, {"chain_sum": 0.9}, {"chain_sum": 0.0}])
def test_without_mastering_the_easiest_level_it_starts_there(tasks: Mixture, easiest: dict[str, float]) -> None:
    answers = Answers()
    assert find_levels(tasks, easiest, answers)["chain_sum"] == 0
    assert answers.levels == []


def test_tasks_without_levels_have_no_start() -> None:
    with closing(Mixture(TASKS[1:], charter=b"", secret=b"s", heldout=2, verifiers=1)) as plain:
        assert plain.levels() == {"spell_backward": 0}
        assert find_levels(plain, {"spell_backward": 1.0}, Answers()) == {}


def test_a_level_beyond_the_last_one_is_the_last(tasks: Mixture) -> None:
    with asked_at(tasks, 99):
        found = {question.level for question in tasks.questions("train", 0, 8) if question.task == "chain_sum"}
    assert found == {tasks.levels()["chain_sum"] - 1}
    assert AtLevel(3).level("t", 0, []) is None
    assert AtLevel(3).resting("t", 0, 9, 1) == frozenset()
