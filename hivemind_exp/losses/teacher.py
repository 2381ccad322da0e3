"""``gated``: verified distillation of another model behind an API. Uses only correct text in the strict format."""

import torch
from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood
from hivemind_exp.tasks.base import FULL_CREDIT

LEAST_WEIGHT = 0.1
"""Weight of verified text for questions that the node always answers correctly itself."""


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the weights of a teacher's rows. NaN unless the outcome is full and the format strict.

    With own rows in the group, the weight is max(0, r - mean of the own rows). It is not divided by their standard
    deviation, because a group with only wrong answers has none. Without own rows, the weight is clip(1 - p̂, 0.1, 1): a
    mean over the teacher's own group would teach less, the better the teacher.
    """
    refused = (rows.outcomes < FULL_CREDIT) | ~rows.strict
    if rows.own_outcomes.numel():
        weights = (rows.outcomes - rows.own_outcomes.mean()).clamp(min=0.0)
    else:
        weights = torch.full_like(rows.outcomes, min(max(1.0 - rows.pass_rate, LEAST_WEIGHT), 1.0))
    return drop(weights, refused)


LOSS = Loss(weigh, likelihood)
