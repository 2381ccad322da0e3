"""The game ``sampling``: one stage.

The prompt is the question with the answer format. The reward is the verifier's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hivemind_exp.journal.records import StageRun
from hivemind_exp.models.chat_format import encode
from hivemind_exp.rollouts.types import Group, Message, Prompt
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.verifiers.answer_tags import INSTRUCTION

if TYPE_CHECKING:  # the command line imports this module to measure prompts
    from transformers import PreTrainedTokenizerBase

STAGE = "answer"


class SamplingGame:
    """Implements ``Game``."""

    stages = (STAGE,)

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, tasks: Tasks) -> None:
        """Without a tokenizer, as in a relay, prompts have no token ids."""
        self._tokenizer = tokenizer
        self._tasks = tasks

    def prompts(self, _stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return the questions as prompts."""
        return build_prompts(questions, self._tokenizer)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Verify every completion."""
        return verified(self._tasks, groups)


def verified(tasks: Tasks, groups: Sequence[Group]) -> list[Group]:
    """Return groups with the verifiers' score for each completion. Verifies all completions in one call.

    Completions that could not be judged are left out, and so are groups that would be empty.
    """
    questions = [group.prompt.question for group in groups for _ in group.rollouts]
    scores = iter(tasks.score(questions, [row.text for group in groups for row in group.rollouts]))
    scored = [replace(group, scores=tuple(next(scores) for _ in group.rollouts)) for group in groups]
    return [judged for group in scored if (judged := group.judged()).rollouts]


def messages(question: Question) -> tuple[Message, ...]:
    """Return the chat that asks a question."""
    return ({"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question.text})


def build_prompts(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase | None) -> list[Prompt]:
    """Return the stage's prompts, in the model's chat format if it has one. Without a tokenizer they have no ids."""
    chats = [(question, messages(question)) for question in questions]
    return [Prompt(each, STAGE, chat, tuple(encode(chat, tokenizer)) if tokenizer else ()) for each, chat in chats]
