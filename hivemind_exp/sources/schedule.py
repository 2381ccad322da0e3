"""Who fills which part of a group: by round, by stage, by share, by need."""

from dataclasses import dataclass

from hivemind_exp.config import OFF, OffloadConfig

AHEAD = 2
AHEAD_IN_BATCHES = 16
"""A batch is as long on its way for one round as for many, and a teacher's text does not grow stale: the further ahead
it is asked, the more rounds are trained for each wait. What it costs is money set aside early, about a cent a round of
a small model; more rounds than a cap allows wait their turn."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The places of one group, in order: first this machine's, then the API's."""

    local: int
    remote: int
    only_if_failed: bool = False
    """The API's part is asked for only where none of this machine's is right."""

    @property
    def remote_places(self) -> range:
        return range(self.local, self.local + self.remote)


def parts(offload: OffloadConfig, round_: int, stage: str, group_size: int, *, least: int = 0) -> Parts:
    """Return how the groups of a round are filled; ``least``: places that are this machine's in any case.

    With ``when = "failed"`` this machine samples whole groups and the API's part comes on top: a sample that was never
    taken cannot have failed.
    """
    if offload.provider == OFF or stage not in offload.stages or not in_rounds(offload.rounds, round_):
        return Parts(group_size, 0)
    remote = share_of(offload, group_size)
    if offload.when == "failed":
        return Parts(group_size, remote, only_if_failed=True)
    remote = min(remote, group_size - least)
    return Parts(group_size - remote, remote)


def share_of(offload: OffloadConfig, group_size: int) -> int:
    """Return how many places of a group are the API's: with a share below 1 never all, as whoever sets one wants own
    samples beside them."""
    most = group_size if offload.share == 1 or offload.when == "failed" else group_size - 1
    return min(most, max(1, round(offload.share * group_size)))


def rounds_ahead(offload: OffloadConfig) -> int:
    """Return the rounds after the present one that are asked for early."""
    if offload.ahead is not None:
        return offload.ahead
    return AHEAD_IN_BATCHES if offload.batch else AHEAD


def in_rounds(expression: str, round_: int) -> bool:
    """Whether a round is meant by ``*``, ``every N``, or ``0-9,15,20-`` (bounds included)."""
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
