"""The second stage: compare the answers and name the best."""

from collections.abc import Sequence
from dataclasses import asdict

from hivemind_exp.game.study_group.prompts import CRITIQUE, Student, critique_messages
from hivemind_exp.game.study_group.rewards import score_critique
from hivemind_exp.game.study_group.shown_outputs import outcomes
from hivemind_exp.game.study_group.stages.base import Stage
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question, Score


class CritiqueStage(Stage):
    """Show answers from this node and its peers."""

    name = CRITIQUE
    verifies = False
    quotes = 1

    def prompts(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:
        """Return a prompt for each question that this node has answered."""
        students = self.shown_outputs.students(round_, questions)
        return [self._critique(each, students[each.digest]) for each in questions if students[each.digest]]

    def scores(self, group: Group) -> list[Score]:
        """Return the scores of the choices, based on the outcomes of the answers shown."""
        return [score_critique(each.text, outcomes(group.prompt.notes)) for each in group.rollouts]

    def _critique(self, question: Question, students: Sequence[Student]) -> Prompt:
        spoken = self.player.voice(question)
        return self.fitted(
            question,
            lambda most: critique_messages(question, spoken, students, most),
            {"students": [asdict(student) for student in students]},
        )
