"""Notice that a node's memory or journal grows without a bound, long before it stops the node.

The trainer counts its open files by itself: no other process can (``hivemind_exp.processes.kernel.hide_memory``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.history import journal_size
from swarmctl.supervision.disk import free
from swarmctl.supervision.memory import used_by
from swarmctl.terminal.sentences import several, size

SETTLED_ROUNDS = 10
"""Rounds after which a trainer uses all the memory that it needs."""
_TIMES, _MORE = 1.5, 2**30
"""Memory has grown if it is this many times what it was, and this many bytes more."""
_NEAR = 0.9
"""Share of the memory limit from which on the kernel may soon kill the trainer."""
_FEW_ROUNDS = 500
"""The disk is nearly full if the journal's growth fills it within this many rounds."""


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """What a node uses at one moment."""

    memory: int
    """Bytes of the trainer and its children."""
    journal: int
    """Bytes."""
    free: int
    """Bytes free on the node's disk."""


def measure(pid: int, files: NodeFiles) -> NodeUsage:
    """Return what the node with the trainer ``pid`` uses now."""
    return NodeUsage(used_by(pid), journal_size(files) or 0, free(files.root))


@dataclass
class GrowthWatch:
    """Compares a node's usage with its usage when it had settled, and with the limits."""

    limit: int
    """Bytes of memory that the trainer may use."""
    keep_rounds: int = 0
    """Rounds that the journal keeps; 0: all."""
    rounds: int = 0
    """Rounds planned; 0: until it is stopped."""
    _first: int | None = None
    _settled: tuple[int, NodeUsage] | None = None
    _told: dict[str, float] = field(default_factory=dict)

    def take(self, usage: NodeUsage, round_: int | None) -> Iterator[str]:
        """Yield a sentence for each bound that is now exceeded; the same one again once it has become much worse.

        ``round_``: rounds finished; None before the first.
        """
        if usage.memory > _NEAR * self.limit and self._worse("limit", usage.memory, 1.05):
            yield (
                f"the trainer uses {size(usage.memory)} of {size(self.limit)} of memory, so the system may soon kill "
                "it. A smaller train.micro_batch or generation.batch needs less"
            )
        if round_ is None:
            return
        if self._first is None:
            self._first = round_
        if self._settled is None:
            if round_ >= self._first + SETTLED_ROUNDS:
                self._settled = round_, usage
            return
        since, then = self._settled
        if usage.memory > max(_TIMES * then.memory, then.memory + _MORE) and self._worse("memory", usage.memory, 1.5):
            yield (
                f"the trainer's memory grew from {size(then.memory)} in round {since} to {size(usage.memory)} in round "
                f"{round_}. `swarmctl restart` frees it; no round is lost"
            )
        if round_ >= since + SETTLED_ROUNDS:
            yield from self._journal(usage, round_, (usage.journal - then.journal) / (round_ - since))

    def _journal(self, usage: NodeUsage, round_: int, per_round: float) -> Iterator[str]:
        ends = [each - round_ for each in (self.keep_rounds, self.rounds) if each]
        left = max(0, min(ends)) if ends else None
        room = int(usage.free / per_round) if per_round > 0 else None
        if room is None or room >= _FEW_ROUNDS or (left is not None and room >= left):
            return
        if self._worse("journal", 1 / (room + 1), 2):
            yield (
                f"the journal grows by {size(int(per_round))} per round, and the disk has room for about "
                f"{several(room, 'more round')}. Free space, or set journal.keep_rounds"
            )

    def _worse(self, what: str, value: float, times: float) -> bool:
        """Whether a value is said for the first time, or is ``times`` as large as when it was said last."""
        if value < times * self._told.get(what, 0.0):
            return False
        self._told[what] = value
        return True
