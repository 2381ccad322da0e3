"""``gated``: verified distillation of another model behind an API; only text that is right and strict in format."""

import torch
from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood
from hivemind_exp.tasks.base import FULL_CREDIT

LEAST_WEIGHT = 0.1
"""Weight of verified text on questions that the node always gets right by itself."""


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the weights of a teacher's rows; NaN where the outcome is not full or the format not strict.

    Beside own rows the weight is max(0, r - mean of the own rows), never divided by a standard deviation, as a cold
    group has none. Without own rows it is clip(1 - p̂, 0.1, 1): a mean over the teacher's own group would teach less
    the better the teacher.
    """
    refused = (rows.outcomes < FULL_CREDIT) | ~rows.strict
    if rows.own_outcomes.numel():
        weights = (rows.outcomes - rows.own_outcomes.mean()).clamp(min=0.0)
    else:
        weights = torch.full_like(rows.outcomes, min(max(1.0 - rows.pass_rate, LEAST_WEIGHT), 1.0))
    return drop(weights, refused)


LOSS = Loss(weigh, likelihood)
