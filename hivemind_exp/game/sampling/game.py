"""The game ``sampling``: one stage.

The prompt is the question in the node's prompt style. The reward is the verifier's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.journal.records import StageRun
from hivemind_exp.models.chat_format import encode
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.verifiers.reader import is_marked

if TYPE_CHECKING:  # the command line imports this module to measure prompts
    from transformers import PreTrainedTokenizerBase

STAGE = "answer"


class SamplingGame:
    """Implements ``Game``."""

    stages = (STAGE,)

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, tasks: Tasks, chats: ChatBuilder | None = None
    ) -> None:
        """Without a tokenizer, as in a relay, prompts have no token ids."""
        self._tokenizer = tokenizer
        self._tasks = tasks
        self._chats = chats or ChatBuilder()

    def prompts(self, _stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return the questions as prompts."""
        return build_prompts(questions, self._tokenizer, self._chats)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Verify every completion."""
        return verified(self._tasks, groups)


def verified(tasks: Tasks, groups: Sequence[Group]) -> list[Group]:
    """Return groups with the verifiers' score for each completion. Verifies all completions in one call.

    Completions that could not be judged are left out, and so are groups that would be empty.
    """
    questions = [group.prompt.question for group in groups for _ in group.rollouts]
    scores = iter(scores_of(tasks, questions, [row for group in groups for row in group.rollouts]))
    scored = [replace(group, scores=tuple(next(scores) for _ in group.rollouts)) for group in groups]
    return [judged for group in scored if (judged := group.judged()).rollouts]


def scores_of(tasks: Tasks, questions: Sequence[Question], rollouts: Sequence[Rollout]) -> list[Score]:
    """Return each rollout's score: a conversation's own, or else the verifier's."""
    open_ = [place for place, rollout in enumerate(rollouts) if rollout.score is None]
    given = tasks.score([questions[place] for place in open_], [said(rollouts[place]) for place in open_])
    verified = dict(zip(open_, given, strict=True))
    return [rollout.score or verified[place] for place, rollout in enumerate(rollouts)]


def said(rollout: Rollout) -> str:
    """Return the text to verify. A text that was cut has no last line, so only an answer between marks counts."""
    return rollout.text if not rollout.truncated or is_marked(rollout.text) else ""


def build_prompts(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase | None, chats: ChatBuilder | None = None
) -> list[Prompt]:
    """Return the stage's prompts, in the model's chat format if it has one. Without a tokenizer they have no ids."""
    asked = [(question, (chats or ChatBuilder()).chat(question)) for question in questions]
    return [Prompt(each, STAGE, chat, tuple(encode(chat, tokenizer)) if tokenizer else ()) for each, chat in asked]
