"""The clipped surrogate and the likelihood that the losses share."""

import torch

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import TokenLoss, TokenRows


def clipped_surrogate(rows: TokenRows, train: TrainConfig, *, two_sided: bool = False) -> TokenLoss:
    """Return -min(r·A, clip(r, 1 - ε, 1 + ε_high)·A) for r = π_θ / π_prox.

    PPO (arXiv 1707.06347, equation 7) with DAPO's separate upper bound (arXiv 2503.14476, section 3.1). With
    ``two_sided`` the unclipped ratio is capped at δ, so that a negative advantage cannot push without bound
    (dual-clip PPO, arXiv 1912.09729).
    """
    ratio = torch.exp(rows.logps - rows.proximal_logps)
    advantages = rows.advantages.unsqueeze(1)
    clipped_ratio = ratio.clamp(1 - train.epsilon, 1 + train.epsilon_high)
    bounded = ratio.clamp(max=train.delta) if two_sided else ratio
    loss = -torch.min(bounded * advantages, clipped_ratio * advantages)
    too_low = (ratio < 1 - train.epsilon) & (advantages < 0)
    too_high = (ratio > 1 + train.epsilon_high) & (advantages > 0)
    return TokenLoss(loss=loss, clipped=too_low | too_high)


def likelihood(rows: TokenRows, _train: TrainConfig) -> TokenLoss:
    """Return -A·π_θ/stop(π_θ): its gradient is that of -A·log π_θ, so the advantage is a weight on the likelihood.

    What text is scored by that comes without log-probabilities: re-encoded text is never paired with a server's.
    """
    ratio = torch.exp(rows.logps - rows.logps.detach())
    return TokenLoss(loss=-ratio * rows.advantages.unsqueeze(1), clipped=torch.zeros_like(rows.mask, dtype=torch.bool))
