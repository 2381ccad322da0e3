"""``relay``: generate, verify, publish. Nothing is learned, and no loss is reported."""

import torch
from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, TokenLoss, TokenRows


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return NaN for every row: none enters a batch."""
    return torch.full_like(rows.outcomes, torch.nan)


def score_tokens(_rows: TokenRows, _train: TrainConfig) -> TokenLoss:
    """Raise ``ValueError``: a relay's rows must never reach a step."""
    raise ValueError("rows of a relay are never trained on")


LOSS = Loss(weigh, score_tokens)
