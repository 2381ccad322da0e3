"""Rate limits, for all peers together and per peer.

This does not use a library: those make callers wait, but here a caller over the limit is rejected at once.
"""

import time
from collections.abc import Callable

from hivemind_exp.bounded import BoundedDict

_PEERS = 4096
"""Maximum number of peers whose rate is remembered, the most recent ones."""


class TokenBucket:
    """Allows ``rate`` units per second, and ``burst`` units at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self, amount: float = 1.0, *, keep: float = 0.0) -> bool:
        """Take ``amount`` and return True, or return False if that would leave less than ``keep``."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left - amount < keep:
            return False
        self._left -= amount
        return True


class PeerBuckets:
    """One token bucket per peer. The peers heard from least recently are forgotten when there are too many."""

    def __init__(self, rate: float, burst: float) -> None:
        self._limits = (rate, burst)
        self._buckets: BoundedDict[str, TokenBucket] = BoundedDict(_PEERS)

    def take(self, peer: str, amount: float = 1.0) -> bool:
        """Take ``amount`` from a peer's bucket and return True, or return False if it has less."""
        return self._buckets.setdefault(peer, TokenBucket(*self._limits)).take(amount)
