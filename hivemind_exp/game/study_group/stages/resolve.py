"""The last stage: sum up the critiques and answer again."""

from collections.abc import Sequence
from dataclasses import asdict

from hivemind_exp.game.study_group.prompts import CRITIQUE, RESOLVE, Student, resolve_messages
from hivemind_exp.game.study_group.rewards import score_resolve
from hivemind_exp.game.study_group.shown_outputs import outcomes, students_of
from hivemind_exp.game.study_group.stages.base import Stage
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question, Score


class ResolveStage(Stage):
    """Show the answers and the critiques of them."""

    name = RESOLVE
    quotes = 2

    def prompts(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:
        """Return prompts with the students that the critique stage showed, or the current ones if it was missed."""
        before = {each.digest: self.journal.prompt(round_, each, CRITIQUE) for each in questions}
        new = self.shown_outputs.students(round_, [each for each in questions if before[each.digest] is None])
        prompts = []
        for question in questions:
            shown = before[question.digest]
            students = new[question.digest] if shown is None else students_of(shown.notes)
            if students:
                prompts.append(self._resolve(round_, question, students))
        return prompts

    def scores(self, group: Group) -> list[Score]:
        """Return the scores of the final answers and of the statements about the critics."""
        question, notes = group.prompt.question, group.prompt.notes
        return [
            score_resolve(question, each.text, score, outcomes(notes), notes["majority"])
            for each, score in zip(group.rollouts, group.scores, strict=True)
        ]

    def _resolve(self, round_: int, question: Question, students: Sequence[Student]) -> Prompt:
        critics, majority = self.shown_outputs.critics(
            round_, question, {each.number: each.outcome for each in students}
        )
        spoken = self.player.voice(question)
        return self.fitted(
            question,
            lambda most: resolve_messages(question, spoken, students, critics, most),
            {
                "students": [asdict(student) for student in students],
                "critics": [{"peer": critic.peer, "place": critic.place} for critic in critics],
                "majority": list(majority),
            },
        )
