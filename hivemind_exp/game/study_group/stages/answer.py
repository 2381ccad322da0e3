"""The first stage: answer the question."""

from collections.abc import Sequence

from hivemind_exp.game.study_group.prompts import ANSWER
from hivemind_exp.game.study_group.rewards import score_answer
from hivemind_exp.game.study_group.stages.base import Stage
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question, Score


class AnswerStage(Stage):
    """Ask the question itself."""

    name = ANSWER

    def prompts(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:  # noqa: ARG002 - shared signature
        """Return the questions as prompts."""
        return [self.prompt(each, self.chats.chat(each, self.player.voice(each))) for each in questions]

    def scores(self, group: Group) -> list[Score]:
        """Return the scores of the answers."""
        pairs = zip(group.rollouts, group.scores, strict=True)
        return [score_answer(group.prompt.question, each.text, score, self.chats.style.form) for each, score in pairs]
