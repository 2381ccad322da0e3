"""``sampling`` as the loop plays it: one stage, the question itself, and the verifier's word for a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hivemind_exp.game.sampling.prompts import STAGE, build_prompts
from hivemind_exp.journal.records import StageRun
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question, Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SamplingGame:
    """Implements ``Game``."""

    stages = (STAGE,)

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, tasks: Tasks) -> None:
        """Without a tokenizer, as a relay has none, prompts have no token ids."""
        self._tokenizer = tokenizer
        self._tasks = tasks

    def prompts(self, _stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return the questions as prompts."""
        return build_prompts(questions, self._tokenizer)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Have every completion verified."""
        return verified(self._tasks, groups)


def verified(tasks: Tasks, groups: Sequence[Group]) -> list[Group]:
    """Return groups with what the tasks' verifiers say of each completion, all at once."""
    questions = [group.prompt.question for group in groups for _ in group.rollouts]
    scores = iter(tasks.score(questions, [row.text for group in groups for row in group.rollouts]))
    return [replace(group, scores=tuple(next(scores) for _ in group.rollouts)) for group in groups]
