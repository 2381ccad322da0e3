"""``f_tis``: learn from a peer's whole groups and log-probabilities, by filtered truncated importance sampling.

F-TIS, arXiv 2605.22537. The weights are those of ``sapo``.
"""

from hivemind_exp.losses.base import Loss, TokenLoss, TokenRows, likelihood
from hivemind_exp.losses.sapo import weigh
from hivemind_exp.train_settings import TrainConfig

TRUNCATION = 2.0
"""Cap on π_θ / π_peer. The value is our choice."""
FILTER = 0.5
"""Mean log(π_peer / π_θ), in nats per token, above which a row with a negative advantage is filtered out. The value
is our choice."""


def score_tokens(rows: TokenRows, train: TrainConfig) -> TokenLoss:
    """Return the truncated, filtered surrogate. Raises ``ValueError`` for rows without the peer's log-probabilities."""
    if rows.behaviour_logps is None:
        raise ValueError("f_tis needs the peer's token ids and log-probabilities")
    log_ratio = (rows.logps.detach() - rows.behaviour_logps).nan_to_num(nan=0.0)
    distance = -(log_ratio * rows.mask).sum(1) / rows.mask.sum(1).clamp(min=1)
    kept = ((rows.advantages >= 0) | (distance <= FILTER)).unsqueeze(1)
    weight = log_ratio.exp()
    loss = likelihood(rows, train).loss * weight.clamp(max=TRUNCATION) * kept
    return TokenLoss(loss, clipped=(weight > TRUNCATION) | ~kept)


LOSS = Loss(weigh, score_tokens, needs_logps=True, equal_tokens=True, needs_spread=True, likelihood_filter=True)
