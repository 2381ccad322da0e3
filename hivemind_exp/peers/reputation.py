"""What a peer's record is worth when peers are drawn from: pure functions, no network, no clock.

Reputation only weighs the drawing. It lets nobody in or out, and what is drawn is verified all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MEMORY = 0.9
"""Weight of the past in the moving averages, for each group."""
KNOWN_AFTER = 8
"""Verified groups after which a peer is no stranger any more."""
FLOOR = 0.1
"""Weight below which no peer that is known falls, and which all strangers share."""
TOLERANCE = 0.05
"""Difference of claimed and recomputed rewards, in [0, 1], that is put down to other settings."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of a peer's honesty. The defaults are a stranger's."""

    groups: int = 0
    """Groups of it that were verified here."""
    excess: float = 0.0
    """Moving average of claimed minus recomputed reward, in [-1, 1]."""
    parsed: float = 1.0
    """Moving average of the share of what it sent that was as it should be, in [0, 1]."""

    @property
    def known(self) -> bool:
        """Whether enough of it was verified to judge it."""
        return self.groups >= KNOWN_AFTER


def verified(standing: Standing, *, claimed: float, recomputed: float) -> Standing:
    """Return the standing after one more group; ``claimed`` and ``recomputed`` are its mean rewards, in [0, 1]."""
    return Standing(
        groups=standing.groups + 1,
        excess=MEMORY * standing.excess + (1 - MEMORY) * (claimed - recomputed),
        parsed=MEMORY * standing.parsed + (1 - MEMORY),
    )


def refused(standing: Standing) -> Standing:
    """Return the standing after one more group or bundle that was not as it should be."""
    return Standing(standing.groups, standing.excess, MEMORY * standing.parsed)


def weight(standing: Standing) -> float:
    """Return the weight of a known peer, in [0.1, 1].

    Claims that are too low count like those that are too high: an honest node's are neither.
    """
    lie = max(0.0, abs(standing.excess) - TOLERANCE)
    return max(FLOOR, standing.parsed * max(0.0, 1.0 - 4.0 * lie))


def weights(standings: Mapping[str, Standing]) -> dict[str, float]:
    """Return the weights of peers beside one another. Strangers share one floor: identities are free."""
    strangers = sum(not standing.known for standing in standings.values())
    # While nobody is known there is nothing to weigh strangers against.
    share = FLOOR / strangers if 0 < strangers < len(standings) else 1.0
    return {peer: weight(each) if each.known else share for peer, each in standings.items()}
