"""What a game is to the loop that plays it: stages, prompts, rewards; and when each is played."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hivemind_exp.journal.records import StageRun
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question


class Game(Protocol):
    """The rules of a round."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in their order."""

    def prompts(self, stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return what the turn asks, at most one prompt a question, the same again after a restart."""

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return groups of one stage with their scores."""


class Schedule(Protocol):
    """When each stage is played."""

    def next(self, last: StageRun | None, finished: int) -> StageRun:
        """Return what is to be played now.

        ``last``: the turn that was played last in the round that is being played; None between rounds.
        ``finished``: rounds that the node has finished.
        """

    def left(self) -> float | None:
        """Return the seconds left for what is played now; None: it takes the time it takes."""


@dataclass(frozen=True, slots=True)
class SequentialSchedule:
    """One stage after the other, one round after the other."""

    stages: tuple[str, ...]

    def next(self, last: StageRun | None, finished: int) -> StageRun:
        """Return the stage after ``last``, or the first of the next round."""
        if last is None:
            return StageRun(finished, self.stages[0])
        # A node that was stopped within a round of another game begins a new one.
        if last.stage not in self.stages[:-1]:
            return StageRun(finished + 1, self.stages[0])
        return StageRun(last.round, self.stages[self.stages.index(last.stage) + 1])

    def left(self) -> float | None:
        return None
