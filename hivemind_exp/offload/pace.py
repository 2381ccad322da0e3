"""An even rate, as services count it: in any minute no more than the limit, and never much at once.

The generic cell rate algorithm (ITU-T I.371, virtual scheduling): what was let through pushes the time on at which the
next may go.
"""

from __future__ import annotations

USED = 0.975
"""Part of a limit that is used; the rest is for what the service counts differently, and for what arrives late."""
CATCH_UP_S = 0.05
"""How far a late start may be made up for: so much may go out at once. Some services count by the second."""


class Pace:
    """Requests, or tokens, of one service. Times are those of the event loop, in seconds."""

    def __init__(self, per_minute: float | None) -> None:
        """Keep to the rate that the operator states, and to what ``heed`` learns; None: to the latter alone."""
        self._stated = per_minute
        self._per_second = _rate(per_minute)
        self._due = 0.0

    @property
    def known(self) -> bool:
        """Whether there is a rate to keep to."""
        return self._per_second is not None

    def heed(self, per_minute: float) -> None:
        """Take up the limit that an answer tells of; the lower of the two holds."""
        self._per_second = _rate(per_minute if self._stated is None else min(per_minute, self._stated))

    def wait(self, now: float) -> float:
        """Return the seconds until the next may go out."""
        return max(0.0, self._due - now) if self.known else 0.0

    def take(self, now: float, amount: float) -> None:
        """Count what goes out now."""
        if self._per_second is not None:
            self._due = max(self._due, now - CATCH_UP_S) + amount / self._per_second

    def correct(self, amount: float) -> None:
        """Count that something was more than expected, or less."""
        if self._per_second is not None:
            self._due += amount / self._per_second


def _rate(per_minute: float | None) -> float | None:
    return None if per_minute is None else USED * per_minute / 60
