"""``positive``: learn from a peer's whole groups, as text, but only from rows better than their group's mean.

The baseline is recomputed here. With a plain loss, the negative rows would dominate: a confident peer's groups mostly
have no variance and drop out. Swarms of unequal nodes then collapse.
"""

from torch import Tensor

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood, standardise


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return the advantages within the peer's group. Drops rows that are not above its mean."""
    advantages = standardise(rows.outcomes, rows.outcomes)
    return drop(advantages, advantages <= 0)


LOSS = Loss(weigh, likelihood, likelihood_filter=True)
