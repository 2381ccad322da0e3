"""``policy``: GRPO on rows from this node's own weights. Rows sampled elsewhere are corrected for their lag."""

import torch
from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, TokenLoss, TokenRows, clipped_surrogate, drop, standardise

WEIGHT_CAP = 2.0
"""Cap on π_prox / π_behav (truncated importance sampling)."""


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return the advantages over the node's own rows. Drops rows with a lag above ``max_lag`` or unknown."""
    stale = torch.tensor([lag is None or lag > train.max_lag for lag in rows.lags], device=rows.outcomes.device)
    return drop(standardise(rows.outcomes, rows.own_outcomes), stale)


def score_tokens(rows: TokenRows, train: TrainConfig) -> TokenLoss:
    """Return the surrogate clipped around π_prox, weighted by min(π_prox / π_behav, 2) where π_behav is known.

    Decoupled PPO (arXiv 2110.00641, section 3): the behavior policy sets a detached weight, and the clip is around the
    policy at the start of the step. Rows sampled here have π_behav = π_prox and weight 1.
    """
    if rows.behaviour_logps is None:
        return clipped_surrogate(rows, train)
    plain = clipped_surrogate(rows, train, two_sided=True)
    weight = torch.exp(rows.proximal_logps - rows.behaviour_logps).clamp(max=WEIGHT_CAP).nan_to_num(nan=1.0)
    return TokenLoss(loss=plain.loss * weight, clipped=plain.clipped)


LOSS = Loss(weigh, score_tokens, own=True)
