"""The timetable of a study group in a swarm: what the charter's clock says, to a node that is fast, slow or late."""

from __future__ import annotations

import time
from collections.abc import Callable

from hivemind_exp.game.base import Turn
from hivemind_exp.game.study_group.timetable import SlotClock


class Slots:
    """Implements ``Timetable``.

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

    def next(self, last: Turn | None, finished: int) -> Turn:  # noqa: ARG002 - the clock alone decides
        """Return the next part of what the present slot is about. Before the beginning that is the first slot."""
        slot = self._clock.at(self._now())
        # A clock that is set back must not make the node play a round again.
        self._latest = max(self._latest, (slot.round, slot.stage))
        round_, place = self._latest
        stage, first = self._stages[place], self._stages[0]
        part = self._parts(round_, stage)
        return Turn(round_, stage if self._parts(round_, first) > part else first, part)

    def left(self) -> float | None:
        """Return the seconds until the present slot ends."""
        return self._clock.at(self._now()).left
