"""Where in the game a node is, through stops and crashes: which turn was the last, and whether its round is over."""

import time
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.game.base import Schedule
from hivemind_exp.journal.records import StageRun


@dataclass(slots=True)
class NodeProgress:
    """How far the node is."""

    round: int = 0
    """Rounds finished."""
    step: int = 0
    """Optimizer steps taken."""
    checkpoint: Path | None = None
    """The newest one."""


class RoundCursor:
    """Keeps ``progress`` in step with the turns that are played."""

    def __init__(self, schedule: Schedule, progress: NodeProgress) -> None:
        self._schedule = schedule
        self._last: StageRun | None = None
        """The turn that was played last in the round that is being played; None between rounds."""
        self.progress = progress

    def resume(self, last: tuple[StageRun, int] | None) -> None:
        """Go on after a step that a checkpoint contains: its turn, and the rounds finished before it.

        Its round may go on unless the checkpoint counts it among the finished.
        """
        if last is not None and last[1] == self.progress.round:
            self._last = last[0]

    def next(self) -> StageRun:
        """Return what is to be played now."""
        return self._schedule.next(self._last, self.progress.round)

    def deadline(self) -> float | None:
        """Return when (``time.monotonic``) what is played now should be over; None: it takes the time it takes."""
        left = self._schedule.left()
        return None if left is None else time.monotonic() + left

    def advance(self, stage_run: StageRun, finished: int) -> None:
        """Count the step of a turn; ``finished``: rounds that the node had finished before it."""
        self._last = stage_run
        self.progress.round, self.progress.step = finished, self.progress.step + 1

    def next_stage(self) -> StageRun | None:
        """Return the next turn of the round that is being played; None where it is over, and counts as finished."""
        stage_run = self.next()
        if self._last is None or stage_run.round == self._last.round:
            return stage_run
        self._last = None
        self.progress.round += 1
        return None
