"""``teacher``: another model behind an API. Verified distillation, or LUFFY's policy shaping by choice."""

from __future__ import annotations

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, LossSettings, TokenLoss, TokenRows, drop, standardise
from hivemind_exp.losses.surrogate import likelihood
from hivemind_exp.tasks.base import FULL_CREDIT

SHAPING = 0.1
"""γ of f(π) = π / (π + γ), LUFFY (arXiv 2504.14945, section 3.2)."""
LEAST_WEIGHT = 0.1
"""Weight of verified text on questions that the node always gets right by itself."""


def weigh(rows: GroupRows, settings: LossSettings) -> Tensor:
    """Return the weights of a teacher's rows.

    ``gated``: only text whose outcome is full and whose format is strict. Beside own rows its weight is
    max(0, r - mean of the own rows), never divided by a standard deviation, as a cold group has none. Without own
    rows it is clip(1 - p̂, 0.1, 1): a mean over the teacher's own group would teach less the better the teacher.

    ``luffy``: the advantage within the joint group of own and foreign rows, as published.
    """
    if settings.teacher_loss == "luffy":
        return standardise(rows.outcomes, torch.cat([rows.own_outcomes, rows.outcomes]))
    refused = (rows.outcomes < FULL_CREDIT) | ~rows.strict
    if rows.own_outcomes.numel():
        weights = (rows.outcomes - rows.own_outcomes.mean()).clamp(min=0.0)
    else:
        weights = torch.full_like(rows.outcomes, min(max(1.0 - rows.pass_rate, LEAST_WEIGHT), 1.0))
    return drop(weights, refused)


def score_tokens(rows: TokenRows, settings: LossSettings) -> TokenLoss:
    """Return the weighted likelihood, or -A·f(π_θ) with f(π) = π / (π + 0.1) under ``luffy``."""
    if settings.teacher_loss == "gated":
        return likelihood(rows)
    probability = rows.logps.exp()
    shaped = probability / (probability + SHAPING)
    return TokenLoss(loss=-shaped * rows.advantages.unsqueeze(1), clipped=torch.zeros_like(rows.mask, dtype=torch.bool))
