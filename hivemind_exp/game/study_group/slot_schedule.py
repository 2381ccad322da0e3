"""What a swarm of the game ``study-group`` plays at a moment: a matter of arithmetic, not of agreement.

Time since the charter's beginning is cut into slots of equal length, one a stage. Nobody votes and nobody leads, so a
liar moves nothing, a late joiner knows at once where the others are, and after a split there is nothing to settle:
both halves went on by the same clock. Clocks that differ by d seconds disagree for d seconds at each boundary, never
by more than one slot as long as d is shorter than one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from hivemind_exp.journal.records import StageRun


@dataclass(frozen=True, slots=True)
class Slot:
    """A moment's place in the game."""

    round: int
    """From 0; negative before the beginning."""
    stage: int
    """Place of the stage in its round."""
    left: float
    """Seconds until the slot ends; above 0, and at most its length."""


@dataclass(frozen=True, slots=True)
class SlotClock:
    """The slots of one charter."""

    t0: int
    """When round 0 begins, in Unix seconds."""
    stage_time: int
    """Length of a slot in seconds."""
    stages: int
    """Slots of a round."""

    def __post_init__(self) -> None:
        if self.stage_time < 1 or self.stages < 1:
            raise ValueError(f"{self.stages} slots of {self.stage_time} s are no round")

    def at(self, now: float) -> Slot:
        """Return what ``now`` (Unix seconds) belongs to. A slot begins with its first moment."""
        number = math.floor((now - self.t0) / self.stage_time)
        # Rounding must not put a moment outside the slot that it is said to be in.
        if now >= self.begins(0, number + 1):
            number += 1
        elif now < self.begins(0, number):
            number -= 1
        round_, stage = divmod(number, self.stages)
        return Slot(round_, stage, self.begins(0, number + 1) - now)

    def begins(self, round_: int, stage: int) -> int:
        """Return when a slot begins, in Unix seconds; ``stage`` may go on into later rounds."""
        return self.t0 + (round_ * self.stages + stage) * self.stage_time


class SlotSchedule:
    """Implements ``Schedule``.

    A fast node goes on along the round's questions until the slot ends. A slow one finds a later slot when it is
    done, and plays that. One that has no own answers to what a later stage would show (it was late, or joined in the
    middle of the round) answers first.
    """

    def __init__(
        self,
        clock: SlotClock,
        stages: tuple[str, ...],
        parts: Callable[[int, str], int],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``parts(round, stage)`` tells how many parts of a stage this node has played."""
        self._clock = clock
        self._stages = stages
        self._parts = parts
        self._now = now
        self._latest = (0, 0)

    def next(self, last: StageRun | None, finished: int) -> StageRun:  # noqa: ARG002 - the clock alone decides
        """Return the next part of what the present slot is about. Before the beginning that is the first slot."""
        slot = self._clock.at(self._now())
        # A clock that is set back must not make the node play a round again.
        self._latest = max(self._latest, (slot.round, slot.stage))
        round_, place = self._latest
        stage, first = self._stages[place], self._stages[0]
        part = self._parts(round_, stage)
        return StageRun(round_, stage if self._parts(round_, first) > part else first, part)

    def left(self) -> float | None:
        """Return the seconds until the present slot ends."""
        return self._clock.at(self._now()).left
