"""How unlikely a peer's text may be: a low quantile of what this node's own samples are like under its own weights.

A right answer can carry poison. Text that the node's own policy would hardly write is left out of the step, whoever
vouches for it. What is left, and stays: poison that reads like the node's own text.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.rollouts.types import Group

QUANTILE = 0.02
"""Part of the node's own samples that lies below the floor."""
SLACK = 0.01
"""Nats a token: the same text measures a little otherwise in another batch."""
SAMPLES = 16
"""Own samples measured a step: one small pass without gradient."""
REMEMBERED = 256
"""Own samples that the quantile is taken of, the latest."""

LogProbabilities = Callable[[Sequence[TrainingRow]], list[list[float]]]
"""Returns log π of each row's completion tokens under the node's present weights."""


class LikelihoodFilter:
    """Follows the node's own samples from step to step."""

    def __init__(self, log_probabilities: LogProbabilities) -> None:
        self._log_probabilities = log_probabilities
        self._means: deque[float] = deque(maxlen=REMEMBERED)

    def measure(self, groups: Sequence[Group]) -> float | None:
        """Take up own samples of a step and return the floor; None while there is none of them to measure by."""
        own = [(group, place) for group in groups for place, row in enumerate(group.rollouts) if row.kind.own]
        picked = own[:: max(1, math.ceil(len(own) / SAMPLES))]
        for logps in self._log_probabilities([row_of(group, place) for group, place in picked]):
            self._means.append(sum(logps) / len(logps))
        found = quantile(self._means, QUANTILE)
        return None if found is None else found - SLACK


def quantile(values: Sequence[float], part: float) -> float | None:
    """Return the value below which ``part`` of the values lie, between two of them linearly; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    below, between = divmod(part * (len(ordered) - 1), 1.0)
    low = ordered[int(below)]
    return low + between * (ordered[min(int(below) + 1, len(ordered) - 1)] - low)


def row_of(group: Group, place: int) -> TrainingRow:
    """Return one completion of a group as a row that weighs nothing."""
    rollout = group.rollouts[place]
    return TrainingRow(
        kind=rollout.kind,
        source=rollout.source,
        task=group.prompt.question.task,
        group=0,
        prompt_ids=group.prompt.ids,
        completion_ids=rollout.ids,
        text=rollout.text,
        outcome=0.0,
        advantage=0.0,
        lag=rollout.lag,
    )
