"""``peer``: another node's whole groups, as text; rewards and baseline recomputed here."""

from __future__ import annotations

from torch import Tensor

from hivemind_exp.losses.base import GroupRows, LossSettings, TokenLoss, TokenRows, drop, standardise
from hivemind_exp.losses.surrogate import clipped_surrogate, likelihood

TRUNCATION = 2.0
"""Cap of π_prox / π_peer (F-TIS, arXiv 2605.22537). The value is ours."""
FILTER = 0.5
"""Mean log(π_peer / π_prox), in nats a token, above which a row of negative advantage is filtered out (F-TIS). The
value is ours."""


def weigh(rows: GroupRows, settings: LossSettings) -> Tensor:
    """Return the advantage within the peer's own group.

    ``positive`` keeps what is better than its group: a confident peer's groups have no variance, so what would reach
    a plain loss are its negatives, and unequal swarms collapse. ``sapo`` (arXiv 2509.08721) and ``f_tis`` keep both
    signs. A row of no advantage is dropped, as in swarm sampling.
    """
    advantages = standardise(rows.outcomes, rows.outcomes)
    silent = advantages <= 0 if settings.peer_loss == "positive" else advantages == 0
    return drop(advantages, silent)


def score_tokens(rows: TokenRows, settings: LossSettings) -> TokenLoss:
    """Return the weighted likelihood; under ``f_tis`` the truncated, filtered surrogate.

    Raises ``ValueError`` if ``f_tis`` is asked for rows without the peer's log-probabilities.
    """
    if settings.peer_loss != "f_tis":
        return likelihood(rows)
    if rows.behaviour_logps is None:
        raise ValueError("f_tis needs the peer's token ids and log-probabilities")
    plain = clipped_surrogate(rows, settings, two_sided=True)
    log_ratio = (rows.proximal_logps - rows.behaviour_logps).nan_to_num(nan=0.0)
    distance = -(log_ratio * rows.mask).sum(1) / rows.mask.sum(1).clamp(min=1)
    kept = ((rows.advantages >= 0) | (distance <= FILTER)).unsqueeze(1)
    return TokenLoss(loss=plain.loss * log_ratio.exp().clamp(max=TRUNCATION) * kept, clipped=plain.clipped | ~kept)
