"""The positions of a round's questions: the task of each, and the seed from which it is made."""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from hivemind_exp.tasks.base import PacedTask, Pacing, Split
from hivemind_exp.tasks.seed_sequence import Sequence64, thresholds

HELD_OUT_SHARE = 5
"""In a fixed set without a held-out file, at most one in this many questions is held out."""
_GOLDEN = (math.sqrt(5) - 1) / 2
Facts = Sequence[Mapping[str, Any]]
"""What the workers report about each task (``base.FACTS``)."""


@dataclass(eq=False)
class QuestionPositions:
    """Derives positions from a swarm's charter and from what paces the questions."""

    labels: Sequence[str]
    weights: Sequence[float]
    """How often the tasks are asked, relative to each other."""
    stride: int
    """Number of positions that a round uses up."""
    train: Sequence64
    held: Sequence64
    by_index: bool
    """Whether a fixed set's question depends only on the round and the index, not on the tasks of the indices before.
    Nodes that ask the tasks in different shares then agree on it. A round skips the questions of indices at which it
    asks other tasks, so passes over a set are shorter."""
    shared: bool = False
    """Whether nodes that ask other numbers of questions per round must agree on the positions, as in a swarm. Then
    ``stride`` is the same for all of them, and the questions of a longer round after so many come from elsewhere."""
    pacing: Pacing | None = None

    def __post_init__(self) -> None:
        total = sum(self.weights)
        self._bounds = thresholds(self.weights)
        self._strides = [max(1, round(self.stride * weight / total)) for weight in self.weights]

    def of_round(self, facts: Facts, split: Split, round: int) -> Iterator[tuple[int, int, int]]:
        """Yield (index, task, seed) for a round's positions. In a fixed set, the seed is a position in the set.

        Ends only if all tasks are fixed sets whose held-out questions are used up.
        """
        sequence = self.train if split == "train" else self.held
        bounds = self._bounds if split == "heldout" else self._paced_bounds(facts, round)
        used = [0] * len(facts)
        for index in count():
            task = bisect.bisect_right(bounds, sequence.at("task", round, index))
            fact = facts[task]
            if fact["size"] is None:
                yield index, task, sequence.at("item", self.labels[task], round, index)
                continue
            start, used[task] = used[task], used[task] + 1
            if split == "train":
                yield index, task, self._position(fact, task, round, index if self.by_index else start)
            elif start < len(reserve := self.reserve(fact, task)):
                yield index, task, reserve[start]
            elif all(
                fact["size"] is not None and used[task] >= len(self.reserve(fact, task))
                for task, fact in enumerate(facts)
            ):
                return

    def seed(self, fact: Mapping[str, Any], task: int, round: int, index: int) -> int:
        """Return the seed of a task's training question at an index, whichever task this node asks there.

        Only if positions in fixed sets depend on nothing but the index (``by_index``).
        """
        if fact["size"] is None:
            return self.train.at("item", self.labels[task], round, index)
        return self._position(fact, task, round, index)

    def reserve(self, fact: Mapping[str, Any], task: int) -> Sequence[int]:
        """Return the positions in a fixed set that may be held out, in an order known only to this node."""
        label, size, own = self.labels[task], fact["size"], fact["heldout_size"]
        if own:
            return [size + place for place in self.held.permutation(label, 0, own)]
        return self.held.permutation(label, 0, size)[: size // HELD_OUT_SHARE]

    def level(self, facts: Facts, task: int, split: Split, round: int) -> int | None:
        """Return the level of difficulty of a round's questions of a task; None for the task's own parameters."""
        if self.pacing is None or split != "train" or round == -1:  # a warm-up has no levels
            return None
        return self.pacing.level(self.labels[task], max(0, round), facts[task]["levels"])

    def _position(self, fact: Mapping[str, Any], task: int, round: int, offset: int) -> int:
        """Return the position in a fixed set at an offset in the round."""
        label, size, stride = self.labels[task], fact["size"], self._strides[task]
        resting = self._resting(task, round, size)
        left = size - len(resting)
        later, offset = divmod(offset, self.stride) if self.shared and not self.by_index else (0, offset)
        epoch, offset = divmod(round * (self.stride if self.by_index else stride) + offset, left)
        # Multiples of the golden ratio are far from each other, so the next rounds do not ask these questions again.
        offset = (offset + later * math.ceil(left * _GOLDEN)) % left
        order = self.train.permutation(label, epoch, size)
        if not resting:
            return order[offset]
        return next(islice((position for position in order if position not in resting), offset, None))

    def _paced_bounds(self, facts: Facts, round: int) -> Sequence[int]:
        if self.pacing is None or round < 0:
            return self._bounds
        tasks = [
            PacedTask(label, weight, fact["levels"])
            for label, weight, fact in zip(self.labels, self.weights, facts, strict=True)
        ]
        weights = self.pacing.weights(round, tasks)
        return self._bounds if weights is None else thresholds(weights)

    def _resting(self, task: int, round: int, size: int) -> frozenset[int]:
        if self.pacing is None or round < 0:
            return frozenset()
        return self.pacing.resting(self.labels[task], round, size, self._strides[task])
