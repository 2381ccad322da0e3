"""When a trainer is restarted: pauses that double, and an end to it."""

from dataclasses import dataclass

from hivemind_exp.backoff import growing

FIRST_S, LONGEST_S = 5.0, 600.0
"""Seconds before the first restart, and the most."""
HEALTHY_S = 600.0
"""A run this long that finished a round was healthy: the next restart counts as the first."""


@dataclass
class Restarts:
    """Counts the restarts of one run."""

    most: int
    """Restarts in a row before giving up."""
    total: int = 0
    row: int = 0
    """Restarts since the last healthy stretch."""

    def ended(self, *, lasted_s: float, rounds: int) -> float | None:
        """Return the seconds to wait before the restart of a trainer that failed; None to give up.

        ``lasted_s``: seconds that it ran; ``rounds``: new rounds that it finished. A node that fails in the same round
        again and again makes no progress, however long it takes each time.
        """
        if lasted_s >= HEALTHY_S and rounds > 0:
            self.row = 0
        if self.row >= self.most:
            return None
        self.row, self.total = self.row + 1, self.total + 1
        return growing(self.row - 1, first=FIRST_S, longest=LONGEST_S)
