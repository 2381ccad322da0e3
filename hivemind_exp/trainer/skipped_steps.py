"""Steps that are skipped because their gradient is not finite. A node that skips one after the other learns nothing."""

import math
import shlex
from dataclasses import dataclass

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError
from hivemind_exp.events import Emit, WarningEvent

MOST_SKIPPED = 16
"""A node gives up after this many steps in a row without a finite gradient. float16's scaler needs fewer to settle."""
_SLOWER = 10
"""The learning rate that is suggested is lower by this factor."""


@dataclass
class SkippedSteps:
    """Counts them."""

    _config: Config
    _half: bool
    """Whether the model computes in float16 or bfloat16."""
    _emit: Emit
    _skipped: int = 0
    """How many in a row."""

    def note(self, step: int, norm: float) -> bool:
        """Return whether a step's gradient, whose norm was ``norm``, was finite. Warn if not: the step was skipped.

        Raises ``NodeError`` after too many skipped steps in a row.
        """
        if math.isfinite(norm):
            self._skipped = 0
            return True
        self._skipped += 1
        message = f"skipped step {step + 1}: its gradient is not finite"
        self._emit(WarningEvent(code="gradient_not_finite", message=message))
        if self._skipped == MOST_SKIPPED:
            raise self._error()
        return False

    def _error(self) -> NodeError:
        what = f"skipped the last {MOST_SKIPPED} steps because no gradient was finite; the node is not learning"
        config = self._config
        if self._half:
            node = shlex.quote(config.node.name)
            return NodeError(what, next=f"swarmctl run --node {node} --set model.dtype=float32")
        # The weights are ruined, so only a new node can do better. Another seed asks for one.
        rate, seed = config.train.learning_rate / _SLOWER, config.node.seed + 1
        return NodeError(
            f"{what}, and a lower learning rate helps only in a new node",
            next=f"swarmctl run --set node.seed={seed} --set train.learning_rate={rate:g}",
        )
