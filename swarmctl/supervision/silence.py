"""Whether a trainer hangs: no sign of life for much longer than a round usually takes."""

import statistics
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.processes.progress import ProcessClock

TIMES_USUAL = 20
"""A silence of this many usual rounds is too long."""
TIMES_STARTING = 6
"""How much longer a silence may be before the first round, in which models are downloaded and loaded."""
_ROUNDS = 32
_LONGEST_LOOK_S = 5.0
"""A gap between two looks counts as at most this: this process may have been suspended, too."""


class SilenceWatch:
    """Counts the seconds since a trainer's last sign of life: an event, or a touch of its lock file.

    Time in which the trainer waits for a CPU or a disk, or in which the machine sleeps, does not count.
    """

    def __init__(self, pid: int, hang_after: float, beat: Path) -> None:
        """``hang_after``: the shortest silence in seconds; ``beat``: the file that a living trainer touches."""
        self._pid, self._looked = pid, 0.0
        self._clock: ProcessClock | None = None
        self._after, self._beat = hang_after, beat
        self._rounds: deque[float] = deque(maxlen=_ROUNDS)
        self._beaten = self._last_beat()
        self.silence = 0.0
        """Seconds without a sign of life."""

    def event(self, event: dict[str, Any]) -> None:
        """Take an event of the trainer."""
        self.silence = 0.0
        if event["event"] == "round" and not event.get("replayed"):
            self._rounds.append(sum(part for part in (event.get("seconds") or {}).values() if part))

    @property
    def usual(self) -> float | None:
        """The usual seconds of a round; None before the first."""
        return statistics.median(self._rounds) if self._rounds else None

    @property
    def limit(self) -> float:
        """The silence in seconds after which the trainer counts as hung."""
        if self.usual is None:
            return TIMES_STARTING * self._after
        return max(self._after, TIMES_USUAL * self.usual)

    def look(self) -> bool:
        """Whether the trainer hangs."""
        if self._clock is None:
            try:
                self._clock = ProcessClock(self._pid)
            except psutil.Error:
                return False  # it has just ended
        now, before = self._clock.look(), self._looked
        self._looked = now
        beaten, self._beaten = self._beaten, self._last_beat()
        self.silence = 0.0 if self._beaten != beaten else self.silence + min(now - before, _LONGEST_LOOK_S)
        return self.silence > self.limit

    def _last_beat(self) -> int:
        with suppress(OSError):
            return self._beat.stat().st_mtime_ns
        return 0
