"""``policy_text``: this node's weights, known as text only. The ratio is taken as 1."""

from __future__ import annotations

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, LossSettings, TokenLoss, TokenRows, drop, standardise
from hivemind_exp.losses.surrogate import likelihood


def weigh(rows: GroupRows, settings: LossSettings) -> Tensor:
    """Return the group advantage over the node's own rows; of rows of unknown age only the positive ones.

    A negative advantage on text that the present weights would not write pushes without bound, and an unknown lag
    says nothing about whether they would.
    """
    advantages = standardise(rows.outcomes, rows.own_outcomes)
    unknown = torch.tensor([lag is None for lag in rows.lags], device=advantages.device)
    stale = torch.tensor([lag is not None and lag > settings.max_lag for lag in rows.lags], device=advantages.device)
    return drop(advantages, stale | (unknown & (advantages < 0)))


def score_tokens(rows: TokenRows, settings: LossSettings) -> TokenLoss:  # noqa: ARG001 - one shape for all kinds
    """Return the weighted likelihood: re-encoded text is never paired with a server's log-probabilities."""
    return likelihood(rows)
