"""The real tasks, for runs in which a benchmark changes their rewards."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind_exp.tasks.base import Heard, Question, Score, Split, Talk, Tasks


class ChangedRewards:
    """Passes everything on to the real tasks. Subclasses change what ``score`` returns."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        return self._tasks.questions(split, round, count)

    def examples(self, count: int) -> dict[str, list[Question]]:
        return self._tasks.examples(count)

    def set_aside(self, questions: Sequence[Question]) -> None:
        self._tasks.set_aside(questions)

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return self._tasks.score(questions, completions)

    def conversing(self) -> list[str]:
        return self._tasks.conversing()

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:
        return self._tasks.reply(questions, talks)

    def close(self) -> None:
        self._tasks.close()
