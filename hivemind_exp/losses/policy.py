"""``policy``: GRPO on rows from this node's own weights. Rows sampled elsewhere are corrected for their lag.

Rows that a teacher has scored also learn from it, token by token (``distillation``).
"""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, TokenLoss, TokenRows, drop, likelihood, standardise
from hivemind_exp.losses.distillation import distil
from hivemind_exp.train_settings import TrainConfig

WEIGHT_CAP = 2.0
"""Cap on π_θ / π_behav (truncated importance sampling)."""


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return the advantages over the node's own rows. Drops rows with a lag above ``max_lag`` or unknown."""
    stale = torch.tensor([lag is None or lag > train.max_lag for lag in rows.lags], device=rows.outcomes.device)
    return drop(standardise(rows.outcomes, rows.own_outcomes), stale)


def score_tokens(rows: TokenRows, train: TrainConfig) -> TokenLoss:
    """Return the surrogate, weighted by min(π_θ / π_behav, 2) where π_behav is known.

    Decoupled PPO (arXiv 2110.00641, section 3) for one step per manifest: the behavior policy sets a detached weight.
    Rows sampled here have π_behav = π_θ and weight 1.
    """
    plain = likelihood(rows, train)
    if rows.teacher_logps is not None:
        plain = TokenLoss(plain.loss + distil(rows))
    if rows.behaviour_logps is None:
        return plain
    weight = torch.exp(rows.logps.detach() - rows.behaviour_logps).nan_to_num(nan=1.0)
    return TokenLoss(plain.loss * weight.clamp(max=WEIGHT_CAP), clipped=weight > WEIGHT_CAP)


LOSS = Loss(weigh, score_tokens, own=True)
