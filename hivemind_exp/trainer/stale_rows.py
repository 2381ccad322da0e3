"""Completions of the node's own weights that are dropped because they are too many steps old. Reports them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.offload.settings import is_offloaded
from hivemind_exp.rollouts.types import Group
from hivemind_exp.sources.schedule import rounds_ahead


@dataclass
class StaleRows:
    """Counts them. Settings rule them out, unless pushes to a server fail, or a swarm plays a stage several times."""

    _config: Config
    _emit: Emit
    _dropped: int = 0

    def count(self, groups: Sequence[Group]) -> None:
        """Count a step's completions. Warn about the first ones that are dropped, and when their number has doubled."""
        most = self._config.train.max_lag
        ahead = rounds_ahead(self._config) if is_offloaded(self._config) else 0
        lags = [each.lag for group in groups for each in group.rollouts if each.kind.own and each.lag is not None]
        before, self._dropped = self._dropped, self._dropped + sum(lag > most for lag in lags)
        if self._dropped.bit_length() > before.bit_length():
            helps = f"Lower offload.ahead (now {ahead})" if ahead else "Raise train.max_lag"
            message = (
                f"left {self._dropped} of the node's own completions out of steps so far, because they were more than "
                f"train.max_lag = {most} steps old. {helps}"
            )
            self._emit(WarningEvent(code="stale", message=message))
