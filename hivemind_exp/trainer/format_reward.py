"""A small reward for completions in the requested format, until the node follows it.

It is a term of the reward, next to the outcome, and only the node's own completions have it. Whether it still applies
follows from the question results in the journal, so a restarted node gives the same rewards again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hivemind_exp.events import Emit, NoteEvent
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.game.sampling.game import said
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import QuestionResult
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.tasks.base import RewardTerm, Score
from hivemind_exp.tasks.verifiers.reader import reference_of

FOLLOWED = 0.9
"""Share of completions in the requested format from which the format counts as followed."""
ROUNDS = 3
"""Rounds in a row in which it must be followed."""


@dataclass(eq=False)
class FormatReward:
    """Adds the reward to groups while it applies."""

    value: float
    """``game.format_reward``."""
    style: PromptStyle
    journal: Journal
    emit: Emit
    _rounds: int | None = None
    """Rounds in a row in which the format was followed. None: not read from the journal yet."""

    def add(self, groups: Sequence[Group]) -> list[Group]:
        """Return verified groups with the reward. Unchanged once the format is followed."""
        if not self.value:
            return list(groups)
        if self._rounds is None:
            self._rounds = 0
            for round_ in self.journal.formats():
                self._count(*round_)
        return list(groups) if self._rounds >= ROUNDS else [self._rewarded(group) for group in groups]

    def count(self, results: Sequence[QuestionResult]) -> None:
        """Count a round's question results. Reports when the format counts as followed."""
        if self._rounds is not None and self._rounds < ROUNDS:
            self._count(sum(each.completions for each in results), sum(each.strict for each in results))
            if self._rounds >= ROUNDS:
                message = (
                    f"more than {FOLLOWED:.0%} of the completions in the last {ROUNDS} rounds are in the requested "
                    "format: game.format_reward no longer applies, only the outcome counts"
                )
                self.emit(NoteEvent(code="format_followed", message=message))

    def _count(self, completions: int, strict: int) -> None:
        """Count a round. Once the format counts as followed, it stays so."""
        assert self._rounds is not None
        if completions and self._rounds < ROUNDS:
            self._rounds = self._rounds + 1 if strict > FOLLOWED * completions else 0

    def _rewarded(self, group: Group) -> Group:
        scores = (self._add(group, row, score) if row.kind.own else score for row, score in group.scored())
        return replace(group, scores=tuple(scores))

    def _add(self, group: Group, rollout: Rollout, score: Score) -> Score:
        followed = is_followed(self.style, group, rollout)
        why = "exactly as requested" if followed else "not as requested"
        outcome = score.terms or (RewardTerm("correct", score.outcome, 1.0, score.why),)
        return replace(score, terms=(*outcome, RewardTerm("format", self.value * followed, self.value, why)))


def is_followed(style: PromptStyle, group: Group, rollout: Rollout) -> bool:
    """Return whether a completion of a group has exactly the shape that the style asks for."""
    return style.is_followed(said(rollout), reference_of(group.prompt.question.entry))
