"""``sapo``: learn from a peer's whole groups, both signs of advantage.

Swarm sampling, arXiv 2509.08721: external groups without any advantage are dropped, and the others are trained on like
the node's own, in one batch.
"""

from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood, standardise
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the advantages within the peer's group. Drops rows with advantage 0."""
    advantages = standardise(rows.outcomes, rows.outcomes)
    return drop(advantages, advantages == 0)


LOSS = Loss(weigh, likelihood, equal_tokens=True, needs_spread=True, likelihood_filter=True)
