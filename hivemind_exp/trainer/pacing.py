"""Chooses a round's questions: those of fixed sets that teach nothing rest, and generated ones get harder.

Both follow from the visits in the journal, so a restarted node chooses the same questions again.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.events import Emit, NoteEvent
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Visit
from hivemind_exp.rollouts.types import Group
from hivemind_exp.trainer.format_reward import is_followed

TURNS = 2
"""A question rests once all or none of its completions were correct this many times in a row."""
EASY, HARD = 0.9, 0.1
"""Shares of correct completions above and below which most groups of 8 tie."""
WINDOW = 64
"""Completions at a level before it can change: at a true share of 0.75, the measured one exceeds ``EASY`` in 1 of 700
cases."""
_REMEMBERED = 1024
"""Decisions kept, so that a round that is asked for again costs no query."""


def visit(round_: int, group: Group, style: PromptStyle) -> Visit:
    """Return the visit of a verified group's question in a round."""
    question = group.prompt.question
    own = [(rollout, score) for rollout, score in group.scored() if rollout.kind.own]
    correct = sum(score.correct for _, score in own)
    strict = sum(is_followed(style, group, rollout) for rollout, _ in own)
    return Visit(round_, question.task, question.position, question.level, len(own), correct, strict)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A task's level of difficulty, and its completions at that level since it changed or was last judged."""

    before: int = 0
    """The first round that is not counted yet."""
    level: int = 0
    completions: int = 0
    correct: int = 0


@dataclass(eq=False)
class JournalPacing:
    """Implements ``Pacing``."""

    game: GameConfig
    journal: Journal
    lag: int
    """Rounds before a round that it must not depend on, because its prompts may be sent while they still train."""
    emit: Emit
    _resting: BoundedDict[tuple[str, int], frozenset[int]] = field(default_factory=lambda: BoundedDict(_REMEMBERED))
    _levels: BoundedDict[tuple[str, int], int] = field(default_factory=lambda: BoundedDict(_REMEMBERED))
    _standings: dict[str, _Standing] = field(default_factory=dict)
    _told: dict[str, int | None] = field(default_factory=dict)
    _starts: Mapping[str, int] = field(default_factory=dict)

    def start_at(self, levels: Mapping[str, int]) -> None:
        """Set the level of each task's first rounds. Other tasks start at the easiest one."""
        self._starts = levels
        self._levels.clear()
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
            self._tell(task, None, f"game.curriculum has no effect on the task {task}: it has no easier parameters")
            return None
        if (known := self._levels.get((task, round))) is None:
            known = self._levels[task, round] = self._choose_level(task, round, len(levels))
            changing = {name for one in levels for name in one if any(other[name] != one[name] for other in levels)}
            now = ", ".join(f"{name}={value}" for name, value in levels[known].items() if name in changing)
            self._tell(task, known, f"{task}: level {known + 1} of {len(levels)} from round {round + 1} on ({now})")
        return known

    def _choose_resting(self, task: str, round_: int, size: int, stride: int) -> frozenset[int]:
        a_pass = math.ceil(size / stride)
        until = round_ - self.lag
        turns: dict[int, list[Visit]] = defaultdict(list)
        for each in self.journal.visits(task, until - (TURNS * (self.game.rest + 1) + 1) * a_pass, until):
            if each.position is not None and each.completions:
                turns[each.position].append(each)
        wakes = {}
        for position, seen in turns.items():
            rates = {each.correct / each.completions for each in seen[-TURNS:]}
            if len(seen) >= TURNS and rates in ({0.0}, {1.0}):
                wakes[position] = seen[-1].round + self.game.rest * a_pass
        asleep = sorted((position for position, at in wakes.items() if at > round_), key=lambda p: (-wakes[p], p))
        # A round needs its number of questions, and those never visited may be held out.
        return frozenset(asleep[: max(0, len(turns) - stride)])

    def _choose_level(self, task: str, round_: int, levels: int) -> int:
        before = max(0, round_ - self.lag)
        first = _Standing(level=min(self._starts.get(task, 0), levels - 1))
        standing = self._standings.get(task, first)
        if standing.before > before:
            standing = first
        level, completions, correct = standing.level, standing.completions, standing.correct
        for each in self.journal.visits(task, standing.before, before):
            if each.level != level:
                continue  # asked before the level changed
            completions, correct = completions + each.completions, correct + each.correct
            if completions >= WINDOW:
                rate = correct / completions
                level = min(max(level + (rate > EASY) - (rate < HARD), 0), levels - 1)
                completions = correct = 0
        self._standings[task] = _Standing(before, level, completions, correct)
        return level

    def _tell(self, task: str, level: int | None, message: str) -> None:
        if task not in self._told or self._told[task] != level:
            self._told[task] = level
            self.emit(NoteEvent(code="level", message=message))
