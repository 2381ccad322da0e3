"""The interface of every loss: weights for the rows of a group, and a loss for their tokens.

Losses are pure tensor functions of their arguments and of ``TrainConfig``. A step adds them up as
(L_own + λ · L_external) / tokens, where tokens counts everything that was asked for or drawn (see ``token_scales`` in
``hivemind_exp.trainer.grpo_step``).

Shapes: B rows, T completion tokens (padded on the right), G rows of one group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hivemind_exp.train_settings import TrainConfig

STD_FLOOR = 1e-4
"""Added to the standard deviation of a group's rewards, as in TRL, so that equal rewards do not divide by zero."""
TIE = 1e-6
"""Standard deviation below which rewards count as equal, so the group has no advantage."""


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The rows of one source in a group, with the outcomes of the node's own rows in that group."""

    outcomes: Tensor
    """(G,) float: rewards as verified here. For external rows the outcome, in [0, 1]."""
    strict: Tensor
    """(G,) bool: whether the format is exactly as requested."""
    lags: tuple[int | None, ...]
    """G lags. None: unknown."""
    texts: tuple[str, ...]
    """G completions."""
    own_outcomes: Tensor
    """(G_own,) float: the same for all rows of this group from the node's own weights. May be empty."""
    pass_rate: float = 0.0
    """p̂ in [0, 1]: this node's pass rate for the task and stage, from evaluations (moving average)."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The rows of one source in a step."""

    logps: Tensor
    """(B, T): log π_θ of the tokens, with gradient. There is one optimizer step per manifest, so its value is also the
    log-probability at the start of the step. PPO's ratio is therefore 1, and there is nothing to clip."""
    advantages: Tensor
    """(B,): the rows' weights, from ``weigh``."""
    mask: Tensor
    """(B, T): 1 for completion tokens, 0 for padding."""
    behaviour_logps: Tensor | None = None
    """(B, T), detached: log-probabilities under the policy that sampled the rows. NaN: unknown."""
    teacher_logps: Tensor | None = None
    """(B, T), detached: a teacher's log-probabilities. NaN: unknown."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """A loss per token."""

    loss: Tensor
    """(B, T): to be summed over the mask and divided by the step's tokens."""
    clipped: Tensor | None = None
    """(B, T) bool: whether the token's importance weight was cut. None for losses without importance weights."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How a node learns from the rows of one kind of source."""

    weigh: Callable[[GroupRows, TrainConfig], Tensor]
    """Returns the advantages (G,) of a source's rows. NaN removes a row that must not be learned from."""
    score_tokens: Callable[[TokenRows, TrainConfig], TokenLoss]
    own: bool = False
    """The rows come from the node's own weights. They share a token denominator and the KL penalty, and are each
    other's baseline."""
    joins_baseline: bool = False
    """The rows' outcomes also enter the baseline of the node's own rows, which are then compared by outcome alone."""
    needs_logps: bool = False
    """Peers must share token ids and log-probabilities."""
    equal_tokens: bool = False
    """External tokens weigh as much as own ones, even if there are more of them."""
    needs_spread: bool = False
    """A group whose rewards are all equal teaches nothing."""
    likelihood_filter: bool = False
    """Rows that the node's own weights are unlikely to generate are filtered out (see ``Manifest.floor``)."""


def standardise(values: Tensor, reference: Tensor) -> Tensor:
    """Return (values - mean) / (std + 1e-4) with the reference's unbiased moments. 0 if its values are all equal.

    GRPO's group advantage: arXiv 2402.03300, section 4.1.2.
    """
    if reference.numel() < 2:
        return torch.zeros_like(values)
    std = reference.std()
    if std < TIE:
        return torch.zeros_like(values)
    return (values - reference.mean()) / (std + STD_FLOOR)


def drop(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values`` with NaN where ``rows`` (bool, same shape) is true. NaN removes a row from the batch."""
    return values.masked_fill(rows, torch.nan)


def likelihood(rows: TokenRows, _train: TrainConfig) -> TokenLoss:
    """Return -A·π_θ/stop(π_θ), GRPO's surrogate. Its gradient is that of -A·log π_θ.

    It is the only loss for text without log-probabilities: a server's are never paired with re-encoded text.
    """
    ratio = torch.exp(rows.logps - rows.logps.detach())
    return TokenLoss(-ratio * rows.advantages.unsqueeze(1))
