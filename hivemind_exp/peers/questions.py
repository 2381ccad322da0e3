"""Generates the questions of peers' groups again, and keeps them for a while."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.peers.bundle import SharedGroup
from hivemind_exp.tasks.base import NamedQuestions, Question, Tasks

ROUNDS = 64
"""The number of rounds whose questions are remembered."""
MOST_NAMED = 4096
"""The number of single questions that are remembered."""
_Made = TypeVar("_Made")


class QuestionCache:
    """Generates questions by round and index, and counts the time spent: some take 0.2 s each."""

    def __init__(self, tasks: Tasks, furthest: int, named: NamedQuestions | None = None) -> None:
        """Create an empty cache.

        Args:
            tasks: the node's tasks.
            furthest: how many questions of a round may be generated at most. No node gets further in a round.
            named: the same tasks, if groups name their tasks and levels, as nodes may ask different ones at an index.
        """
        self._tasks, self.furthest, self._named = tasks, furthest, named
        self._rounds: BoundedDict[int, tuple[int, Mapping[int, Question]]] = BoundedDict(ROUNDS)
        """By round: how many questions were generated, and the questions by index."""
        self._single: BoundedDict[tuple[int, int, str, int | None], Question | None] = BoundedDict(MOST_NAMED)
        self.seconds = 0.0
        """Time spent generating so far, in seconds."""

    def is_known(self, round_: int, group: SharedGroup) -> bool:
        """Return whether the question of a group from a round was generated before."""
        if self._named is not None:
            return _name(round_, group) in self._single
        return group.index < self._rounds.get(round_, (0, {}))[0]

    def of(self, round_: int, group: SharedGroup) -> Question | None:
        """Return the question at a group's index. None if there is none because it is held out on this node.

        Raises ``TaskError`` if the question cannot be generated. If groups name their tasks and levels, the swarm must
        have them.
        """
        if (tasks := self._named) is None:
            return self._at(round_, group.index)
        name = _name(round_, group)
        if name not in self._single:
            self._single[name] = self._timed(lambda: tasks.question(group.task, round_, group.index, group.level))
        return self._single[name]

    def _at(self, round_: int, index: int) -> Question | None:
        made, questions = self._rounds.get(round_, (0, {}))
        if index >= made:
            # Held-out indices are skipped, so the first ``made`` questions reach at least this index.
            made = index + 1
            found = self._timed(lambda: self._tasks.questions("train", round_, made))
            questions = {each.index: each for each in found}
        self._rounds[round_] = made, questions  # also on a hit, so that the round becomes the newest
        return questions.get(index)

    def _timed(self, make: Callable[[], _Made]) -> _Made:
        begun = time.monotonic()
        try:
            return make()
        finally:
            self.seconds += time.monotonic() - begun


def _name(round_: int, group: SharedGroup) -> tuple[int, int, str, int | None]:
    return round_, group.index, group.task, group.level
