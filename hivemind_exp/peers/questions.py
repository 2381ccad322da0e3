"""Questions of rounds that peers play, made here once more: what a peer says of a question is never believed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

from hivemind_exp.tasks.base import Question, Tasks

ROUNDS = 64
"""Rounds whose questions are remembered."""


class QuestionCache:
    """Makes questions by round and place, and counts the time: some take a fifth of a second each."""

    def __init__(self, tasks: Tasks, furthest: int) -> None:
        """``furthest``: places of a round that are made at most."""
        self._tasks = tasks
        self._furthest = furthest
        self._rounds: OrderedDict[int, Mapping[int, Question]] = OrderedDict()
        self._made: dict[int, int] = {}
        self.seconds = 0.0
        """Time spent so far."""

    def reaches(self, index: int) -> bool:
        """Whether a place is no further along its round than any node goes."""
        return index < self._furthest

    def is_known(self, round_: int, index: int) -> bool:
        """Whether the question of a place was made before."""
        return index < self._made.get(round_, 0)

    def at(self, round_: int, index: int) -> Question | None:
        """Return the question of a place; None where there is none, as it is held out here.

        Raises ``TaskError`` where it cannot be made, and ``ValueError`` where the place is not reached.
        """
        if not self.reaches(index):
            raise ValueError(f"place {index} of a round is further than any node goes")
        if not self.is_known(round_, index):
            begun = time.monotonic()
            try:
                self._make(round_, index + 1)
            finally:
                self.seconds += time.monotonic() - begun
        self._rounds.move_to_end(round_)
        return self._rounds[round_].get(index)

    def _make(self, round_: int, count: int) -> None:
        # Places that are held out here are left out, so the first ``count`` questions reach at least that far.
        questions = self._tasks.questions("train", round_, count)
        self._rounds[round_] = {question.index: question for question in questions}
        self._made[round_] = count
        while len(self._rounds) > ROUNDS:
            forgotten, _ = self._rounds.popitem(last=False)
            del self._made[forgotten]
