"""``positive``: learn from the correct rows of a peer's whole groups, as text, where this node fails.

With a plain loss, the negative rows would dominate: a confident peer's groups mostly have no variance and drop out.
Swarms of unequal nodes then collapse. Here a group in which all rows are correct teaches most.
"""

from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, drop, likelihood
from hivemind_exp.tasks.base import FULL_CREDIT
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return r - p̂. Drops rows that are neither correct nor above their group's mean, and weights of at most 0.

    This node has not answered the question, so its pass rate p̂ for the task stands in for the mean of its own rows.
    """
    better = (rows.outcomes >= FULL_CREDIT) | (rows.outcomes > rows.outcomes.mean())
    weights = rows.outcomes - rows.pass_rate
    return drop(weights, ~better | (weights <= 0))


LOSS = Loss(weigh, likelihood, likelihood_filter=True)
