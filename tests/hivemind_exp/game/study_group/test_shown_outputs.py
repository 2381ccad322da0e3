"""A later stage selects peers' outputs, even if some block the verifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hivemind_exp.game.study_group.shown_outputs import ShownOutputs
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW
from tests.support.spelling_task import Spelling


class Slow(Spelling):
    """A verifier that times out on some answers."""

    def __init__(self) -> None:
        super().__init__()
        self.held_up = 0
        self.seen: list[str] = []

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        self.seen += completions
        endless = ["9**9" in text for text in completions]
        self.held_up += sum(endless)
        return [
            Score(0.0, True, TOO_SLOW) if held else score
            for held, score in zip(endless, super().score(questions, completions), strict=True)
        ]


class Nothing:
    """Stands in for a journal without own answers."""

    def scored(self, *_: Any) -> list[Any]:
        return []


class Crowd:
    """Two peers whose every answer makes the verifier time out, and an honest one."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._digests = [question.digest for question in questions]

    def outputs(self, round: int, stage: str) -> dict[str, dict[str, list[str]]]:  # noqa: ARG002
        evil = {digest: ["<answer>9**9999999</answer>"] * 8 for digest in self._digests}
        return {"evil": evil, "evil too": evil, "honest": {digest: ["<answer>a</answer>"] for digest in self._digests}}


def test_a_peer_blocks_the_verifier_only_once() -> None:
    tasks = Slow()
    questions = tasks.questions("train", 0, 8)
    gathering = ShownOutputs("me", range(8), tasks=tasks, journal=Nothing(), peers=Crowd(questions))  # type: ignore[arg-type]
    gathering.students(0, questions)
    assert tasks.held_up == 2
    gathering.students(1, questions)
    assert tasks.held_up == 2
    assert tasks.seen.count("<answer>a</answer>") == 2 * len(questions)
