"""``positive``: a peer's whole groups, as text, baseline recomputed here; only what is better than its own group.

A confident peer's groups have no variance, so what would reach a plain loss are its negatives, and unequal swarms
collapse.
"""

from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood, standardise


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the advantages within the peer's own group; rows that are not better than it are dropped."""
    advantages = standardise(rows.outcomes, rows.outcomes)
    return drop(advantages, advantages <= 0)


LOSS = Loss(weigh, likelihood, likelihood_filter=True)
