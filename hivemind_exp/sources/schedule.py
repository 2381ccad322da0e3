"""Which source fills which part of a group, by round, by stage, by share, and by need."""

from dataclasses import dataclass

from hivemind_exp.config import OFF, Config, OffloadConfig
from hivemind_exp.offload.settings import only_if_failed, share_of
from hivemind_exp.source_kinds import POLICY_SERVER, Kind

AHEAD = 2
"""With one round ahead, a server completes both rounds in flight at almost the same time, and then waits while the node
trains. With two, it always has something to do."""
AHEAD_OF_WHOLE_WEIGHTS = 1
"""A server that has one version of the weights at a time works on one round at a time, so more would only make
completions older."""
AHEAD_IN_BATCHES = 16
"""A batch takes as long for one round as for many, and a teacher's text does not become stale. Requesting further ahead
therefore trains more rounds per wait. The drawback is that money is reserved earlier. Rounds beyond what the cap allows
wait until money is available."""


@dataclass(frozen=True, slots=True)
class GroupSplit:
    """How many slots of a group each source fills. This machine's slots come first, then the API's."""

    local: int
    remote: int
    only_if_failed: bool = False
    """Request the API's part only if none of this machine's samples is correct."""

    @property
    def remote_slots(self) -> range:
        return range(self.local, self.local + self.remote)


def split_group(offload: OffloadConfig, round_: int, stage: str, group_size: int, *, least: int = 0) -> GroupSplit:
    """Return how a round's groups are filled. ``least``: the minimum number of slots for this machine.

    With ``when = "failed"`` or hints, this machine samples whole groups and the other part is added to them, because
    only a completed sample can fail.
    """
    if offload.provider == OFF or stage not in offload.stages or not in_rounds(offload.rounds, round_):
        return GroupSplit(group_size, 0)
    remote = share_of(offload, group_size)
    if only_if_failed(offload):
        return GroupSplit(group_size, remote, only_if_failed=True)
    remote = min(remote, group_size - least)
    return GroupSplit(group_size - remote, remote)


def rounds_ahead(config: Config) -> int:
    """Return how many rounds after the current one are requested early.

    Hints need the round's samples first, and a server that takes turns with training has no time for the next round.
    By default, no completion becomes too old to learn from.
    """
    offload = config.offload
    if offload.teach == "hints" or (offload.kind == POLICY_SERVER and offload.serving.turns == "on"):
        return 0
    if offload.ahead is not None:
        return offload.ahead
    if offload.counts_as is Kind.POLICY:
        whole = offload.kind == POLICY_SERVER and config.model.lora is None
        return min(AHEAD_OF_WHOLE_WEIGHTS if whole else AHEAD, config.train.max_lag // config.game.steps_a_round)
    return AHEAD_IN_BATCHES if offload.batch else AHEAD


def in_rounds(expression: str, round_: int) -> bool:
    """Whether ``expression`` includes a round: ``*``, ``every N``, or ``0-9,15,20-`` (bounds included)."""
    if expression == "*":
        return True
    if expression.startswith("every "):
        return round_ % int(expression.removeprefix("every ")) == 0
    return any(_in_range(part, round_) for part in expression.split(","))


def _in_range(part: str, round_: int) -> bool:
    first, dash, last = part.partition("-")
    if not dash:
        return round_ == int(first)
    return int(first) <= round_ and (not last or round_ <= int(last))
