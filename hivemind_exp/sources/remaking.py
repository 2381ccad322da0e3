"""Questions of rounds that peers play, made here once more: what a peer says of a question is never believed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import Question, Tasks

ROUNDS = 64
"""Rounds whose questions are remembered."""


class Remaking:
    """Makes questions by round and place, within a budget: some take a fifth of a second each."""

    def __init__(self, tasks: Tasks, furthest: int) -> None:
        """``furthest``: places of a round that are made at most."""
        self._tasks = tasks
        self._furthest = furthest
        self._rounds: OrderedDict[int, Mapping[int, Question]] = OrderedDict()
        self._made: dict[int, int] = {}

    def cost(self, round_: int, index: int) -> int | None:
        """Return how many questions ``at`` would make; None where the place is too far along its round."""
        if index >= self._furthest:
            return None
        return 0 if index < self._made.get(round_, 0) else index + 1

    def at(self, round_: int, index: int) -> Question | None:
        """Return the question of a place; None where there is none, as it is held out here.

        Raises ``TaskError`` where it cannot be made.
        """
        if self.cost(round_, index) != 0:
            self._make(round_, index + 1)
        self._rounds.move_to_end(round_)
        return self._rounds[round_].get(index)

    def _make(self, round_: int, count: int) -> None:
        if not 0 < count <= self._furthest:
            raise TaskError(f"question {count} of a round is further than any node goes")
        # Places that are held out here are left out, so the first ``count`` questions reach at least that far.
        questions = self._tasks.questions("train", round_, count)
        self._rounds[round_] = {question.index: question for question in questions}
        self._made[round_] = count
        while len(self._rounds) > ROUNDS:
            forgotten, _ = self._rounds.popitem(last=False)
            del self._made[forgotten]
