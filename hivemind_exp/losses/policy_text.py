"""``policy_text``: text from this node's own weights, without log-probabilities. The ratio is taken as 1."""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood, standardise
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return the advantages over the node's own rows. Of rows with unknown lag, keeps only the positive ones.

    A negative advantage pushes without bound on text that the current weights would not generate. If the lag is
    unknown, so is whether they would.
    """
    advantages = standardise(rows.outcomes, rows.own_outcomes)
    unknown = torch.tensor([lag is None for lag in rows.lags], device=advantages.device)
    stale = torch.tensor([lag is not None and lag > train.max_lag for lag in rows.lags], device=advantages.device)
    return drop(advantages, stale | (unknown & (advantages < 0)))


LOSS = Loss(weigh, likelihood, own=True)
