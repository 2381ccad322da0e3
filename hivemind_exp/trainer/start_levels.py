"""Find the level of difficulty at which a new node's curriculum starts.

Levels below it would tie: a model that is nearly always correct on the easiest level learns nothing from it, and the
curriculum needs rounds to leave it. The measurement is rough, because the curriculum corrects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from hivemind_exp.tasks.base import PacedTask, Question
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.calibration import ROUND
from hivemind_exp.trainer.pacing import EASY, HARD

ASKED = 16
"""Questions that measure a level. Each gets one sampled answer."""


@dataclass(frozen=True, slots=True)
class AtLevel:
    """Implements ``Pacing``: all questions of all tasks have one level, or the hardest one if there are fewer."""

    number: int

    def resting(self, task: str, round: int, size: int, stride: int) -> frozenset[int]:  # noqa: ARG002
        return frozenset()

    def level(self, task: str, round: int, levels: Sequence[Mapping[str, Any]]) -> int | None:  # noqa: ARG002
        return min(self.number, len(levels) - 1) if levels else None

    def weights(self, round: int, tasks: Sequence[PacedTask]) -> None:  # noqa: ARG002
        return None


@contextmanager
def asked_at(tasks: Mixture, number: int) -> Iterator[None]:
    """Make the tasks' questions have one level inside the block."""
    pacing, tasks.pacing = tasks.pacing, AtLevel(number)
    try:
        yield
    finally:
        tasks.pacing = pacing


def find_levels(
    tasks: Mixture, easiest: Mapping[str, float], correct: Callable[[Sequence[Question]], Sequence[bool]]
) -> dict[str, int]:
    """Return the level at which each task's curriculum should start, for tasks that have several.

    It is the easiest one at which a share of at most ``EASY`` of the sampled answers is correct, unless less than
    ``HARD`` is: then it is the one before. Found by bisection, as harder levels have fewer correct answers.

    Args:
        tasks: the mixture, with its levels prepared.
        easiest: by task, the share of correct answers on the easiest level, if it was measured.
        correct: answers questions with the node's model and returns which answers are correct.
    """
    return {
        task: _bisect(count, partial(_share, tasks, task, correct)) if easiest.get(task, 0.0) > EASY else 0
        for task, count in tasks.levels().items()
        if count > 1
    }


def _bisect(count: int, share: Callable[[int], float]) -> int:
    """Return the level to start at, of ``count``, if the easiest one is too easy."""
    easy, other, found = 0, count, 0.0
    while other - easy > 1:
        middle = (easy + other) // 2
        measured = share(middle)
        if measured > EASY:
            easy = middle
        else:
            other, found = middle, measured
    return easy if other == count or found < HARD else other


def _share(tasks: Mixture, task: str, correct: Callable[[Sequence[Question]], Sequence[bool]], level: int) -> float:
    """Return the share of correct answers on a level."""
    with asked_at(tasks, level):
        drawn = tasks.questions("train", ROUND, ASKED * len(tasks.levels()))
    found = correct([question for question in drawn if question.task == task][:ASKED])
    return sum(found) / len(found) if found else 0.0
