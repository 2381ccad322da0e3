"""``luffy``: learn from a teacher's text by policy shaping, with own and external rows as one group.

arXiv 2504.14945, as published: the advantage within the joint group, a loss whose denominator Z counts the tokens of
own and external rows together, and policy shaping. The authors' code drops the standard deviation in its runs.
"""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, TokenLoss, TokenRows, standardise
from hivemind_exp.train_settings import TrainConfig

SHAPING = 0.1
"""γ of f(π) = π / (π + γ), section 3.2."""


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the advantages within the joint group of own and external rows."""
    return standardise(rows.outcomes, torch.cat([rows.own_outcomes, rows.outcomes]))


def score_tokens(rows: TokenRows, _train: TrainConfig) -> TokenLoss:
    """Return -A·f(π_θ) with f(π) = π / (π + 0.1)."""
    probability = rows.logps.exp()
    shaped = probability / (probability + SHAPING)
    return TokenLoss(-shaped * rows.advantages.unsqueeze(1))


LOSS = Loss(weigh, score_tokens, joins_baseline=True, equal_tokens=True)
