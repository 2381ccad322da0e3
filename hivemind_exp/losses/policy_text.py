"""``policy_text``: this node's weights, known as text only. The ratio is taken as 1."""

import torch
from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood, standardise


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return the group advantage over the node's own rows; of rows of unknown age only the positive ones.

    A negative advantage on text that the present weights would not write pushes without bound, and an unknown lag
    says nothing about whether they would.
    """
    advantages = standardise(rows.outcomes, rows.own_outcomes)
    unknown = torch.tensor([lag is None for lag in rows.lags], device=advantages.device)
    stale = torch.tensor([lag is not None and lag > train.max_lag for lag in rows.lags], device=advantages.device)
    return drop(advantages, stale | (unknown & (advantages < 0)))


LOSS = Loss(weigh, likelihood, own=True)
