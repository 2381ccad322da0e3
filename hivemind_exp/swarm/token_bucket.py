"""How often, or how much: for everybody together, and for each peer.

No library: those make callers wait for their turn; here whoever comes too often is refused at once.
"""

import time
from collections.abc import Callable

from hivemind_exp.bounded import BoundedDict

_PEERS = 4096
"""Peers whose pace is remembered, those heard of last."""


class TokenBucket:
    """So many things a second, with so many at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self, amount: float = 1.0, *, keep: float = 0.0) -> bool:
        """Take ``amount`` and return True, or return False where that would leave less than ``keep``."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left - amount < keep:
            return False
        self._left -= amount
        return True


class PeerBuckets:
    def __init__(self, rate: float, burst: float) -> None:
        self._limits = (rate, burst)
        self._buckets: BoundedDict[str, TokenBucket] = BoundedDict(_PEERS)

    def take(self, peer: str, amount: float = 1.0) -> bool:
        """Take ``amount`` of what a peer may have now; False where that is less."""
        return self._buckets.setdefault(peer, TokenBucket(*self._limits)).take(amount)
