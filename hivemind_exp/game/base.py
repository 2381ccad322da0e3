"""The interface between a game and the round loop: stages, prompts and rewards, and when each stage is played."""

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
        """The stages in order."""

    def prompts(self, stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return a stage's prompts: at most one per question, and the same ones again after a restart."""

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return one stage's groups with their scores."""


class Schedule(Protocol):
    """Decides when each stage is played."""

    def next(self, last: StageRun | None, finished: int) -> StageRun:
        """Return the stage to play now.

        ``last``: the stage played last in the current round; None between rounds.
        ``finished``: the number of rounds that the node has finished.
        """

    def left(self) -> float | None:
        """Return the seconds left for the current stage. None: no time limit."""


@dataclass(frozen=True, slots=True)
class SequentialSchedule:
    """Plays the stages in order, round after round, without a clock."""

    stages: tuple[str, ...]

    def next(self, last: StageRun | None, finished: int) -> StageRun:
        """Return the stage after ``last``, or the first of the next round."""
        if last is None:
            return StageRun(finished, self.stages[0])
        # A node that was stopped within a round of another game starts a new round.
        if last.stage not in self.stages[:-1]:
            return StageRun(finished + 1, self.stages[0])
        return StageRun(last.round, self.stages[self.stages.index(last.stage) + 1])

    def left(self) -> float | None:
        return None
