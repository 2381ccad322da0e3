"""The settings of what keeps a node running: the table ``[supervision]``."""

from typing import Literal

from hivemind_exp.settings_table import NotNegative, Section


class SupervisionConfig(Section):
    """What happens when the trainer crashes or hangs. See docs/service.md."""

    restart: Literal["auto", "on-failure", "never"] = "auto"
    """Whether the trainer is restarted after a crash, a hang or a full disk. "auto": with `run --detach` and as a
    service. Errors that you must fix, and reached limits, always end the run."""
    max_restarts: NotNegative = 10
    """Restarts in a row before the node gives up. The count is reset once the node has run for 10 minutes and
    finished a round."""
    hang_after: NotNegative = 600
    """Seconds without a sign of life after which the trainer counts as hung. If 20 times the usual length of a round is
    longer, that applies. Before the first round, six times as long. 0: never."""
    keep_awake: bool = True
    """Keep a Mac on mains power from falling asleep while the node runs (`caffeinate`)."""
