"""``relay``: a relay only generates, verifies and shares. It learns nothing, and reports no loss."""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, TokenLoss, TokenRows
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return NaN for every row, so that none enters a batch."""
    return torch.full_like(rows.outcomes, torch.nan)


def score_tokens(_rows: TokenRows, _train: TrainConfig) -> TokenLoss:
    """Raise ``ValueError``: a relay's rows must never reach a step."""
    raise ValueError("a relay's rows are never trained on")


LOSS = Loss(weigh, score_tokens)
