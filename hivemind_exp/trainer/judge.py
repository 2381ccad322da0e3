"""One more term of the reward: the grades of a judge (``hivemind_exp.offload.judge``)."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, JudgeEvent, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.judge import BEST, STAGE, grade_in, judge_config, judge_messages, request_name
from hivemind_exp.offload.settings import JUDGE, first_endpoint
from hivemind_exp.offload.unusable import quoted_start
from hivemind_exp.rollouts.types import CompletionRequest, Group
from hivemind_exp.tasks.base import RewardTerm, Score

TERM = "judge"
ROUNDS_IN_VAIN = 3
"""A paid judge is no longer asked after this many rounds in a row without a single grade."""


class Grader(Protocol):
    """What the judge needs of ``OffloadClient``, which documents the methods."""

    def submit(self, orders: Iterable[CompletionRequest]) -> None: ...

    def wait(self, round_: int, deadline: float | None = None) -> None: ...

    def report_spend(self, round_: int) -> None: ...

    def set_aside(self, provider: str, why: str, command: str, table: str) -> None: ...


@dataclass
class Judge:
    """Adds grades to rewards. Grades are in the journal before they are used, so a resumed node pays for none twice."""

    config: Config
    grader: Grader
    journal: Journal
    emit: Emit
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _vain: int = 0
    """Rounds in a row whose replies were no grades."""

    def grade(self, scored: list[Group]) -> list[Group]:
        """Return a round's verified groups, with one more term in the scores of the node's own completions.

        Completions of an API or of peers count by their outcome alone, so they are not graded, and no advantage
        compares them with a grade (see ``GroupRows.own_outcomes``). Raises ``StopRequested`` and ``NodeError``.
        """
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
        self._count(round_, len(known), [replies[name] for name in wanted if name in replies])
        return grades

    def _count(self, round_: int, graded: int, replies: Sequence[str]) -> None:
        """Warn about a judge whose replies are no grades. If it costs money, stop asking it, so that the node stops."""
        if graded or not replies:  # without a reply, it is unavailable
            self._vain = 0 if graded else self._vain
            return
        self._vain += 1
        endpoint = first_endpoint(judge_config(self.config))
        example = f"for example {quoted_start(replies[0])}"
        if self._vain == 1:
            message = (
                f"the judge {endpoint.label} graded no completion in round {round_ + 1}: a grade is a whole number "
                f"from 0 to 10 and nothing else, but it replied with other text, {example}. Rewards stay as they are "
                "without a judge. Choose another model (judge.model), or raise judge.max_tokens if its replies are cut"
            )
            self.emit(WarningEvent(code="taught_nothing", message=message, provider=endpoint.name, judge=True))
        if self._vain == ROUNDS_IN_VAIN:
            why = f"it graded no completion in {ROUNDS_IN_VAIN} rounds ({example})"
            self.grader.set_aside(endpoint.name, why, f"swarmctl models {endpoint.name}", JUDGE)

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
