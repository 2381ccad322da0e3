"""``relay``: generate, verify, publish. Nothing is learned, and no loss is reported."""

from __future__ import annotations

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, LossSettings, TokenLoss, TokenRows


def weigh(rows: GroupRows, settings: LossSettings) -> Tensor:  # noqa: ARG001 - one shape for all kinds
    """Return NaN for every row: none enters a batch."""
    return torch.full_like(rows.outcomes, torch.nan)


def score_tokens(rows: TokenRows, settings: LossSettings) -> TokenLoss:  # noqa: ARG001 - one shape for all kinds
    """Raise ``ValueError``: a relay's rows must never reach a step."""
    raise ValueError("rows of a relay are never trained on")
