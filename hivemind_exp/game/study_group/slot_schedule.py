"""The schedule of a swarm that plays ``study-group``. The clock alone determines the current stage.

The time since the charter's start is divided into time slots of equal length, one per stage. Nodes neither vote nor
follow a leader, so a liar cannot change the schedule. A node that joins late computes the current stage at once. After
a network split, nothing needs to be settled, because both halves followed the same clock. Nodes whose clocks differ by
d seconds disagree for d seconds at each boundary, and by no more than one slot as long as d is shorter than a slot.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from hivemind_exp.journal.records import StageRun


@dataclass(frozen=True, slots=True)
class Slot:
    """The time slot that contains a given moment."""

    round: int
    """From 0. Negative before the start."""
    stage: int
    """Index of the stage in its round."""
    left: float
    """Seconds until the slot ends: above 0, and at most its length."""


@dataclass(frozen=True, slots=True)
class SlotClock:
    """The time slots of one charter."""

    t0: int
    """Start of round 0, in Unix seconds."""
    stage_time: int
    """Length of a slot in seconds."""
    stages: int
    """Slots per round."""

    def __post_init__(self) -> None:
        if self.stage_time < 1 or self.stages < 1:
            raise ValueError(f"invalid round: {self.stages} slots of {self.stage_time} s")

    def at(self, now: float) -> Slot:
        """Return the slot that contains ``now`` (Unix seconds). The start of a slot belongs to that slot."""
        number = math.floor((now - self.t0) / self.stage_time)
        # Rounding must not assign a moment to a slot that does not contain it.
        if now >= self.begins(0, number + 1):
            number += 1
        elif now < self.begins(0, number):
            number -= 1
        round_, stage = divmod(number, self.stages)
        return Slot(round_, stage, self.begins(0, number + 1) - now)

    def begins(self, round_: int, stage: int) -> int:
        """Return the start of a slot, in Unix seconds. ``stage`` may run past the round into later ones."""
        return self.t0 + (round_ * self.stages + stage) * self.stage_time


class SlotSchedule:
    """Implements ``Schedule``.

    A fast node continues with more of the round's questions until the slot ends. A slow node that finishes during a
    later slot plays that one. A node without its own answers to the questions of a later stage (because it was late or
    joined in the middle of the round) answers them first.
    """

    def __init__(
        self,
        clock: SlotClock,
        stages: tuple[str, ...],
        parts: Callable[[int, str], int],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``parts(round, stage)`` returns how many chunks of a stage this node has played."""
        self._clock = clock
        self._stages = stages
        self._parts = parts
        self._now = now
        self._latest = (0, 0)

    def next(self, last: StageRun | None, finished: int) -> StageRun:  # noqa: ARG002 - the clock alone decides
        """Return the next chunk of the current slot's stage. Before the start, the first slot counts as current.

        If this node has not answered the questions of that chunk yet, return the same chunk of the first stage.
        """
        slot = self._clock.at(self._now())
        # If the clock is set back, the node must not play a round again.
        self._latest = max(self._latest, (slot.round, slot.stage))
        round_, place = self._latest
        stage, first = self._stages[place], self._stages[0]
        part = self._parts(round_, stage)
        return StageRun(round_, stage if self._parts(round_, first) > part else first, part)

    def left(self) -> float | None:
        """Return the seconds until the current slot ends."""
        return self._clock.at(self._now()).left
