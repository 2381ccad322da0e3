"""Questions of rounds that peers play, made here once more: what a peer says of a question is never believed."""

import time
from collections.abc import Mapping

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.tasks.base import Question, Tasks

ROUNDS = 64
"""Rounds whose questions are remembered."""


class QuestionCache:
    """Makes questions by round and place, and counts the time: some take a fifth of a second each."""

    def __init__(self, tasks: Tasks, furthest: int) -> None:
        """``furthest``: places of a round that are made at most."""
        self._tasks = tasks
        self._furthest = furthest
        self._rounds: BoundedDict[int, tuple[int, Mapping[int, Question]]] = BoundedDict(ROUNDS)
        """By round: how many places were made, and the questions of those that have one."""
        self.seconds = 0.0
        """Time spent so far."""

    def reaches(self, index: int) -> bool:
        """Whether a place is no further along its round than any node goes."""
        return index < self._furthest

    def is_known(self, round_: int, index: int) -> bool:
        """Whether the question of a place was made before."""
        return index < self._rounds.get(round_, (0, {}))[0]

    def at(self, round_: int, index: int) -> Question | None:
        """Return the question of a place; None where there is none, as it is held out here.

        Raises ``TaskError`` where it cannot be made, and ``ValueError`` where the place is not reached.
        """
        if not self.reaches(index):
            raise ValueError(f"place {index} of a round is further than any node goes")
        made, questions = self._rounds.get(round_, (0, {}))
        if index >= made:
            begun = time.monotonic()
            try:
                # Places that are held out here are left out, so the first ``made`` questions reach at least that far.
                made = index + 1
                questions = {each.index: each for each in self._tasks.questions("train", round_, made)}
            finally:
                self.seconds += time.monotonic() - begun
        self._rounds[round_] = made, questions  # also where it is known: it was asked for just now
        return questions.get(index)
