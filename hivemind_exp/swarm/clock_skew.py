"""The difference between this machine's clock and its peers' clocks."""

import math
import time
from collections.abc import Callable

from hivemind_exp.bounded import BoundedDict

MOST_SKEW_S = 3.0
_RECENT_S = 180.0
"""Older measurements don't count: the peer may be gone, and either clock may have been set since. Longer than the pause
between two pings of a peer."""
_LARGEST_S = 1e9
"""A larger difference is not a clock's."""
_PEERS = 1024


class ClockSkews:
    """How many seconds each peer's clock is ahead of this machine's, from its answers to pings."""

    def __init__(self, clock: Callable[[], float] = time.time, awake: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._awake = clock, awake
        self._found: BoundedDict[str, tuple[float, float]] = BoundedDict(_PEERS)

    def measure(self, peer: str, told: float, begun: float) -> None:
        """Store a peer's time. ``told``: its time; ``begun``: when this node asked. Both in Unix seconds.

        A slow answer shows nothing: this node may have been frozen, or its clock set, while it waited.
        """
        now = self._clock()
        ahead = told - (begun + now) / 2
        if 0 <= now - begun <= MOST_SKEW_S and math.isfinite(ahead) and abs(ahead) < _LARGEST_S:
            self._found[peer] = ahead, self._awake()

    def of(self, peer: str) -> float:
        """Return how many seconds a peer's clock is ahead; 0 if that is unknown."""
        return self._found.get(peer, (0.0, 0.0))[0]

    def recent(self) -> list[float]:
        """Return the recent measurements in seconds, one per peer."""
        since = self._awake() - _RECENT_S
        return [ahead for ahead, at in self._found.values() if at > since]


def median_skew(skews: list[float]) -> float | None:
    """Return how many seconds the peers' clocks are ahead of this machine's: the median; None without a peer.

    Of two medians, it is the smaller difference: as many peers agree with this machine as not.
    """
    if not skews:
        return None
    ordered = sorted(skews)
    return min(ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2], key=abs)


def is_news(ahead: float, told: float) -> bool:
    """Whether to report a difference, after another one was reported (0: none)."""
    ended = abs(told) > MOST_SKEW_S and abs(ahead) < MOST_SKEW_S / 2  # less than the limit, so that it doesn't flicker
    return abs(ahead - told) > MOST_SKEW_S or ended


def describe_skew(ahead: float, peers: int) -> str:
    """Return a sentence on the difference between this machine's clock and the clocks of so many peers."""
    whose, which = ("its peers' clocks", "it") if peers > 1 else ("its only peer's clock", "both")
    if abs(ahead) <= MOST_SKEW_S:
        return f"this machine's clock agrees with {whose} again"
    return f"this machine's clock is {apart(ahead)} {whose}; synchronize {which}"


def apart(ahead: float) -> str:
    """Return where this machine's clock is if another one is so many seconds ahead: "12 s behind"."""
    return f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'}"
