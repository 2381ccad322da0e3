"""What came of a round's stages so far: this node's own outputs from its journal, peers' as far as they were heard.

Whatever others wrote is judged here, from its text and the question that was made here; what they say of it themselves
is not asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hivemind_exp.game.study_group.merging import Heard, Output, PeerOutputs, heard, select, student_number
from hivemind_exp.game.study_group.prompts import ANSWER, CRITIQUE, Critic, Student
from hivemind_exp.game.study_group.quoting import LONGEST_QUOTATION, shortened
from hivemind_exp.game.study_group.rewards import Choice, choice_in, majority_of, score_answer, score_critique
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.verifiers.answer_tags import content
from hivemind_exp.tasks.workers.pool import DIED, TIMED_OUT


class Exhibits:
    """Looks things up; keeps nothing but the names of those who hold it up."""

    def __init__(self, me: str, places: range, *, tasks: Tasks, journal: Journal, peers: PeerOutputs) -> None:
        """``me``: the node's peer id; ``places``: those of its groups."""
        self._me = me
        self._places = places
        self._tasks = tasks
        self._journal = journal
        self._peers = peers
        self._slow: set[str] = set()

    def students(self, round_: int, questions: Sequence[Question]) -> dict[str, list[Student]]:
        """Return the answers to show, by question digest; none for a question without an own one."""
        said = self._peers.outputs(round_, ANSWER)
        found = {question.digest: heard(said, question.digest, besides=self._me) for question in questions}
        shown = {}
        for question in questions:
            outputs = list(self._own(round_, ANSWER, question, _answer))
            for each, verified in self._verified(question, found[question.digest]):
                outputs.append(_output(each, score_answer(question, each.text, verified), _answer(each.text)))
            picked = select(outputs, question.digest, answers=True)
            shown[question.digest] = [_student(question.digest, output) for output in picked]
        return shown

    def critics(
        self, round_: int, question: Question, students: Mapping[int, float]
    ) -> tuple[list[Critic], tuple[Choice, ...]]:
        """Return the critiques to show of a question, and what most critics chose: one vote a node.

        ``students``: outcomes of the answers that are shown, by number.
        """
        outputs = list(self._own(round_, CRITIQUE, question, _choice))
        for each in heard(self._peers.outputs(round_, CRITIQUE), question.digest, besides=self._me):
            outputs.append(_output(each, score_critique(each.text, students), _choice(each.text)))
        shown = select(outputs, question.digest, answers=False)
        critics = [Critic(output.peer, output.place, shortened(output.text, LONGEST_QUOTATION)) for output in shown]
        return critics, _majority(outputs, students)

    def _verified(self, question: Question, outputs: Sequence[Heard]) -> Iterator[tuple[Heard, Score]]:
        """Yield peers' outputs with what the verifier says of them: an output of each peer at a time, and no more of
        one whose output held the verifier up. Each such one takes seconds, and a slot has not many."""
        for place in sorted({each.place for each in outputs}):
            wave = [each for each in outputs if each.place == place and each.peer not in self._slow]
            scores = self._tasks.score([question] * len(wave), [each.text for each in wave]) if wave else []
            for each, score in zip(wave, scores, strict=True):
                if score.why in (TIMED_OUT, DIED):
                    self._slow.add(each.peer)
                else:
                    yield each, score

    def _own(self, round_: int, stage: str, question: Question, sameness: Callable[[str], str]) -> Iterator[Output]:
        for place, kind, text, score in self._journal.scored(round_, stage, question.digest, self._places):
            yield Output(self._me, place, text, score.reward, score.outcome, own=kind.own, sameness=sameness(text))


def outcomes(notes: Mapping[str, Any]) -> dict[int, float]:
    """Return the outcome of each answer that a prompt shows, by number, from the prompt's notes."""
    return {student["number"]: student["outcome"] for student in notes["students"]}


def students_of(notes: Mapping[str, Any]) -> list[Student]:
    """Return the answers that a prompt shows, from its notes."""
    return [Student(**student) for student in notes["students"]]


def _output(each: Heard, score: Score, sameness: str) -> Output:
    return Output(each.peer, each.place, each.text, score.reward, score.outcome, own=False, sameness=sameness)


def _student(question: str, output: Output) -> Student:
    number = student_number(question, output.peer, output.place)
    return Student(number, output.peer, output.place, output.outcome, shortened(output.text, LONGEST_QUOTATION))


def _answer(text: str) -> str:
    """Return what makes two answers the same."""
    answer = content(text, "answer")
    return " ".join((text if answer is None else answer).casefold().split())


def _choice(text: str) -> str:
    """Return what makes two critiques the same."""
    return str(choice_in(text, "identify"))


def _majority(critiques: Sequence[Output], students: Mapping[int, float]) -> tuple[Choice, ...]:
    by_peer: dict[str, list[Choice]] = {}
    for critique in critiques:
        by_peer.setdefault(critique.peer, []).append(choice_in(critique.text, "identify"))
    return majority_of([vote for choices in by_peer.values() for vote in majority_of(choices, students)], students)
