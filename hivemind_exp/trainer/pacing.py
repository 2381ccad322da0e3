"""Chooses a round's questions: those of fixed sets that teach nothing rest, generated ones get harder, and tasks whose
groups teach something are asked more often.

All of this follows from the question results in the journal, so a restarted node chooses the same questions again.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.events import CurriculumEvent, Emit, NoteEvent
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import QuestionResult
from hivemind_exp.rollouts.types import Group
from hivemind_exp.tasks.base import PacedTask
from hivemind_exp.trainer.format_reward import is_followed

TURNS = 2
"""A question rests once all or none of its completions were correct this many times in a row."""
EASY, HARD = 0.9, 0.1
"""Shares of correct completions above and below which most groups of 8 tie."""
WINDOW = 64
"""Completions at a level before it can change: at a true share of 0.75, the measured one exceeds ``EASY`` in 1 of 700
cases."""
LATEST = 16
"""A task's latest groups, from which the share of those that differ is estimated: few, so that it follows the model."""
PRIOR = 2
"""Groups that differ, added to them. So a task that was never asked gets its whole weight, and one whose groups all tie
keeps a ninth of it (2 of 18), with which it is noticed when it starts to teach."""
_TOLD = 0.05
"""Change of a task's share of the questions from which it is reported."""
_REMEMBERED = 1024
"""Decisions kept, so that a round that is asked for again costs no query."""


def question_result(round_: int, group: Group, style: PromptStyle) -> QuestionResult:
    """Return the result of a verified group's question in a round."""
    question = group.prompt.question
    own = [(rollout, score) for rollout, score in group.scored() if rollout.kind.own]
    correct = sum(score.correct for _, score in own)
    strict = sum(is_followed(style, group, rollout) for rollout, _ in own)
    return QuestionResult(round_, question.task, question.position, question.level, len(own), correct, strict)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A task's level of difficulty, and its completions at that level since it changed or was last judged."""

    before: int = 0
    """The first round that is not counted yet."""
    level: int | None = None
    """None: the task has no levels."""
    completions: int = 0
    correct: int = 0
    latest: tuple[bool, ...] = ()
    """For each of its latest groups at that level: whether some completions were correct and some were not."""

    @property
    def differing(self) -> Fraction:
        """The share of the latest groups that differ, as estimated."""
        return Fraction(sum(self.latest) + PRIOR, len(self.latest) + PRIOR)

    def after(self, result: QuestionResult, levels: int) -> "_Standing":
        """Return the standing after one more result, of a task with a number of levels."""
        if result.level != self.level or not result.completions:
            return self  # asked before the level changed, or only by others
        latest = (*self.latest, 0 < result.correct < result.completions)[-LATEST:]
        completions, correct = self.completions + result.completions, self.correct + result.correct
        if self.level is None or completions < WINDOW:
            return _Standing(self.before, self.level, completions, correct, latest)
        rate = correct / completions
        level = min(max(self.level + (rate > EASY) - (rate < HARD), 0), levels - 1)
        return _Standing(self.before, level, latest=latest if level == self.level else ())


@dataclass(eq=False)
class JournalPacing:
    """Implements ``Pacing``."""

    game: GameConfig
    journal: Journal
    lag: int
    """Rounds before a round that it must not depend on, because its prompts may be sent while they still train."""
    emit: Emit
    _resting: BoundedDict[tuple[str, int], frozenset[int]] = field(default_factory=lambda: BoundedDict(_REMEMBERED))
    _known: BoundedDict[tuple[str, int], _Standing] = field(default_factory=lambda: BoundedDict(_REMEMBERED))
    _standings: dict[str, _Standing] = field(default_factory=dict)
    _shares: dict[str, tuple[float, int | None]] = field(default_factory=dict)
    """Each task's share of the questions and level, as reported last."""
    _shares_at: int = -1
    """The round they were reported for."""
    _told: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    """By task, the level that was reported last, and the round it was reported for."""
    _starts: Mapping[str, int] = field(default_factory=dict)

    def start_at(self, levels: Mapping[str, int]) -> None:
        """Set the level of each task's first rounds. Other tasks start at the easiest one."""
        self._starts = levels
        self._known.clear()
        self._told.clear()
        self._standings.clear()

    def resting(self, task: str, round: int, size: int, stride: int) -> frozenset[int]:
        """Return the positions in a fixed set of ``size`` questions that are not asked in a round."""
        if not self.game.rest:
            return frozenset()
        if (known := self._resting.get((task, round))) is None:
            known = self._resting[task, round] = self._choose_resting(task, round, size, stride)
        return known

    def level(self, task: str, round: int, levels: Sequence[Mapping[str, Any]]) -> int | None:
        """Return the level of difficulty of a round's questions. Reports when it changes."""
        if not self.game.curriculum:
            return None
        if len(levels) < 2:
            message = f"the task {task} has no easier parameters, so game.curriculum does not change its level"
            self._tell(task, round, None, message)
            return None
        level = self._standing(task, round, len(levels)).level
        assert level is not None
        changing = {name for one in levels for name in one if any(other[name] != one[name] for other in levels)}
        now = ", ".join(f"{name}={value}" for name, value in levels[level].items() if name in changing)
        self._tell(task, round, level, f"{task}: level {level + 1} of {len(levels)} from round {round + 1} on ({now})")
        return level

    def weights(self, round: int, tasks: Sequence[PacedTask]) -> Sequence[Fraction] | None:
        """Return each task's weight, multiplied by the share of its latest groups that differ (``differing``).

        Only such groups have advantages, as the outcomes of a group that is all correct or all wrong have no variance.
        Rutherford et al. (arXiv 2408.15099) choose what to train on by that variance, p (1 - p), which they call
        learnability.
        """
        if not self.game.curriculum:
            return None
        standings = [self._standing(task.label, round, len(task.levels)) for task in tasks]
        weights = [Fraction(task.weight) * standing.differing for task, standing in zip(tasks, standings, strict=True)]
        self._tell_shares(round, tasks, standings, weights)
        return weights

    def _choose_resting(self, task: str, round_: int, size: int, stride: int) -> frozenset[int]:
        a_pass = math.ceil(size / stride)
        until = round_ - self.lag
        turns: dict[int, list[QuestionResult]] = defaultdict(list)
        for each in self.journal.question_results(task, until - (TURNS * (self.game.rest + 1) + 1) * a_pass, until):
            if each.position is not None and each.completions:
                turns[each.position].append(each)
        wakes = {}
        for position, seen in turns.items():
            rates = {each.correct / each.completions for each in seen[-TURNS:]}
            if len(seen) >= TURNS and rates in ({0.0}, {1.0}):
                wakes[position] = seen[-1].round + self.game.rest * a_pass
        asleep = sorted((position for position, at in wakes.items() if at > round_), key=lambda p: (-wakes[p], p))
        # A round needs its number of questions, and those never asked may be held out.
        return frozenset(asleep[: max(0, len(turns) - stride)])

    def _standing(self, task: str, round_: int, levels: int) -> _Standing:
        """Return the standing of a task with a number of levels at the beginning of a round."""
        if (known := self._known.get((task, round_))) is not None:
            return known
        before = max(0, round_ - self.lag)
        first = _Standing(level=min(self._starts.get(task, 0), levels - 1) if levels > 1 else None)
        standing = self._standings.get(task, first)
        if standing.before > before:
            standing = first
        for each in self.journal.question_results(task, standing.before, before):
            standing = standing.after(each, levels)
        standing = replace(standing, before=before)
        self._standings[task] = self._known[task, round_] = standing
        return standing

    def _tell_shares(
        self, round_: int, tasks: Sequence[PacedTask], standings: Sequence[_Standing], weights: Sequence[Fraction]
    ) -> None:
        """Report each task's share of the questions, and its level, if they changed."""
        now = {
            task.label: (float(weight / sum(weights)), standing.level)
            for task, standing, weight in zip(tasks, standings, weights, strict=True)
        }
        if round_ <= self._shares_at:  # an earlier round, asked again
            return
        steady = (
            self._shares[task][1] == level and abs(self._shares[task][0] - share) < _TOLD
            for task, (share, level) in now.items()
        )
        if self._shares and all(steady):
            return
        self._shares, self._shares_at = now, round_
        found: dict[str, dict[str, int | float | None]] = {
            task.label: {
                "share": now[task.label][0],
                "differing": sum(standing.latest) / len(standing.latest) if standing.latest else None,
                "groups": len(standing.latest),
                "level": standing.level,
                "levels": len(task.levels) if standing.level is not None else None,
            }
            for task, standing in zip(tasks, standings, strict=True)
        }
        self.emit(CurriculumEvent(round=round_, tasks=found))

    def _tell(self, task: str, round_: int, level: int | None, message: str) -> None:
        """Report a task's level if it changed. An earlier round may be asked again when a later one is known."""
        at, before = self._told.get(task, (-1, -1))
        if round_ > at and level != before:
            self._told[task] = round_, level
            self.emit(NoteEvent(code="level", message=message))
