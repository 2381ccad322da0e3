"""``gated``: supervised learning on another model's verified text. Uses only correct text in the requested format."""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood
from hivemind_exp.rollouts.types import MOST_ANSWERS
from hivemind_exp.tasks.base import FULL_CREDIT
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the weights of a teacher's rows. NaN unless the outcome is full and the format strict.

    With own rows in the group, the weight is max(0, r - mean of the own rows). It is not divided by their standard
    deviation, because a group with only wrong answers has none. Without own rows, the weight is 1: a mean over the
    teacher's own group would teach less, the better the teacher, and AdamW divides a weight that all rows share away.
    """
    refused = (rows.outcomes < FULL_CREDIT) | ~rows.strict
    known: set[str] = set()
    for place, text in enumerate(rows.texts):
        if refused[place]:
            continue
        if text.strip() in known or len(known) >= MOST_ANSWERS:
            refused[place] = True
        known.add(text.strip())
    weights = torch.ones_like(rows.outcomes)
    if rows.own_outcomes.numel():
        weights = (rows.outcomes - rows.own_outcomes.mean()).clamp(min=0.0)
    return drop(weights, refused)


LOSS = Loss(weigh, likelihood)
