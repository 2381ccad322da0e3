"""A game whose rewards have one more term: the grade of a judge (``hivemind_exp.offload.judge``)."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, JudgeEvent
from hivemind_exp.game.base import Game
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.offload.judge import BEST, STAGE, grade_in, judge_messages, request_name
from hivemind_exp.rollouts.types import CompletionRequest, Group, Prompt
from hivemind_exp.tasks.base import Question, RewardTerm, Score

TERM = "judge"


class Grader(Protocol):
    """What the judge needs of ``OffloadClient``, which documents the methods."""

    def submit(self, orders: Iterable[CompletionRequest]) -> None: ...

    def wait(self, round_: int, deadline: float | None = None) -> None: ...

    def report_spend(self, round_: int) -> None: ...


@dataclass
class JudgedGame:
    """Implements ``Game``. Grades are in the journal before they are used, so a resumed node pays for none twice."""

    game: Game
    config: Config
    grader: Grader
    journal: Journal
    emit: Emit
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def stages(self) -> tuple[str, ...]:
        return self.game.stages

    def prompts(self, stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return the game's prompts."""
        return self.game.prompts(stage_run, questions)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with the game's scores, and the judge's term for the node's own completions.

        Other completions count by their outcome alone, so they are not graded. Raises ``StopRequested`` and
        ``NodeError``.
        """
        scored = self.game.score(groups)
        names = {
            (number, place): request_name(self.config, group.prompt.question.digest, rollout.text)
            for number, group in enumerate(scored)
            for place, rollout in enumerate(group.rollouts)
            if rollout.kind.own
        }
        if not names:
            return scored
        grades = self._grades(scored, names)
        return [
            self._graded(group, {place: grades[name] for (n, place), name in names.items() if n == number})
            for number, group in enumerate(scored)
        ]

    def _grades(self, groups: Sequence[Group], names: dict[tuple[int, int], str]) -> dict[str, float | None]:
        """Return the grade by request name, asking for those that are not in the journal."""
        wanted = {name: (groups[number], place) for (number, place), name in names.items()}
        (round_,) = {group.prompt.question.round for group in groups}
        orders = [
            CompletionRequest(round_, STAGE, name, self._messages(group, place), (0,), version=0)
            for name, (group, place) in wanted.items()
            if not self.journal.settled(round_, STAGE, name)
        ]
        self.grader.submit(orders)
        self.grader.wait(round_)
        self.grader.report_spend(round_)
        replies = self.journal.replies(round_, STAGE).texts()
        grades = {name: grade_in(replies[name]) if name in replies else None for name in wanted}
        known = [grade for name in names.values() if (grade := grades[name]) is not None]
        mean = BEST * fmean(known) if known else None
        self.emit(JudgeEvent(round=round_, graded=len(known), ungraded=len(names) - len(known), grade=mean))
        return grades

    def _messages(self, group: Group, place: int) -> tuple[dict[str, str], ...]:
        question, text = group.prompt.question.text, group.rollouts[place].text
        return judge_messages(self.config.judge.instructions, question, text, self._mark)

    def _graded(self, group: Group, grades: dict[int, float | None]) -> Group:
        """Add the term. A completion without a grade gets its group's mean, so that it neither gains nor loses."""
        known = [grade for grade in grades.values() if grade is not None]
        if not known:
            return group
        scores = list(group.scores)
        for place, grade in grades.items():
            scores[place] = self._with_term(scores[place], grade, fmean(known))
        return replace(group, scores=tuple(scores))

    def _with_term(self, score: Score, grade: float | None, mean: float) -> Score:
        weight = self.config.judge.weight
        why = "no grade, so the mean of the group" if grade is None else f"{BEST * grade:.0f} of {BEST}"
        term = RewardTerm(TERM, weight * (mean if grade is None else grade), weight, why)
        before = score.terms or (RewardTerm("correct", score.outcome, 1.0, score.why),)
        return replace(score, terms=(*before, term))
