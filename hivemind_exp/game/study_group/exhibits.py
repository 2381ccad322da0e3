"""What came of a round's stages so far: this node's own outputs from its journal, peers' as far as they were heard.

Whatever others wrote is judged here, from its text and the question that was made here; what they say of it themselves
is not asked for. A later stage shows a few outputs of all, the best of each first, at least one of the node's own.
Nothing is kept between calls, so that what comes late counts from the next call on, and nobody is waited for: what is
missing is not shown, and without any peer there is the node's own.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hivemind_exp.game.study_group.prompts import ANSWER, CRITIQUE, LONGEST_QUOTATION, PeerText, Student, shortened
from hivemind_exp.game.study_group.rewards import Choice, choice_in, majority_of, score_answer, score_critique
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.verifiers.answer_tags import content
from hivemind_exp.tasks.workers.pool import DIED, TIMED_OUT

SHOWN = 4
"""Outputs that a later stage shows."""
MOST_PEERS = 16
"""Peers whose outputs for one question are looked at. Which ones follows from the question, so that it is not always
the same ones, and the same for all who heard the same."""
MOST_TEXTS = 8
"""Outputs of one peer for one question that are looked at: beyond that it only costs time."""
LONGEST_TEXT = 16_384
"""Characters of the longest output that is looked at."""
_FIRST_NUMBER, _NUMBERS = 100, 900


class PeerOutputs(Protocol):
    """What peers have published. Whatever it returns was said by others and is believed in nothing."""

    def outputs(self, round: int, stage: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return what was heard so far of a stage: by peer id and question digest the texts of a whole group, in the
        order of their places. Returns at once."""


class NoPeers:
    """Stands for a swarm of one."""

    def outputs(self, round: int, stage: str) -> Mapping[str, Mapping[str, Sequence[str]]]:  # noqa: ARG002
        return {}


@dataclass(frozen=True, slots=True)
class Output:
    """One output with what it is worth here."""

    peer: str
    place: int
    text: str
    reward: float
    """As computed here; what its author says of it is not looked at."""
    outcome: float
    own: bool
    """Made by this node's own weights."""
    sameness: str
    """Outputs of one peer with equal ``sameness`` say the same; one of them is enough."""


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
    ) -> tuple[list[PeerText], tuple[Choice, ...]]:
        """Return the critiques to show of a question, and what most critics chose: one vote a node.

        ``students``: outcomes of the answers that are shown, by number.
        """
        outputs = list(self._own(round_, CRITIQUE, question, _choice))
        for each in heard(self._peers.outputs(round_, CRITIQUE), question.digest, besides=self._me):
            outputs.append(_output(each, score_critique(each.text, students), _choice(each.text)))
        shown = select(outputs, question.digest, answers=False)
        critics = [PeerText(output.peer, output.place, shortened(output.text, LONGEST_QUOTATION)) for output in shown]
        return critics, _majority(outputs, students)

    def _verified(self, question: Question, outputs: Sequence[PeerText]) -> Iterator[tuple[PeerText, Score]]:
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


def _output(each: PeerText, score: Score, sameness: str) -> Output:
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


def student_number(question: str, peer: str, place: int) -> int:
    """Return the number under which an answer is shown, three digits that follow from the question and whose it is.

    A rank among those present would be another for each node, as none hears all: then a critic's "Student 3" would be
    somebody else to whoever reads the critique. And a number that a peer kept from question to question would teach
    whom to believe, not what.
    """
    digest = hashlib.sha256(f"{question}\x1f{peer}\x1f{place}".encode()).digest()
    return _FIRST_NUMBER + int.from_bytes(digest[:4], "big") % _NUMBERS


def heard(outputs: Mapping[str, Mapping[str, Sequence[str]]], question: str, *, besides: str) -> list[PeerText]:
    """Return what is looked at of peers' outputs for a question (its digest), bounded whatever they send.

    ``besides``: the node's own peer id, under which nobody else is believed.
    """
    peers = [peer for peer, groups in outputs.items() if peer != besides and groups.get(question)]
    peers.sort(key=lambda peer: _lot(question, peer))
    return [
        PeerText(peer, place, text)
        for peer in peers[:MOST_PEERS]
        for place, text in enumerate(outputs[peer][question][:MOST_TEXTS])
        if len(text) <= LONGEST_TEXT
    ]


def select(outputs: Sequence[Output], question: str, *, answers: bool) -> list[Output]:
    """Return the outputs to show, the node's own best one first, as few as ``SHOWN``.

    Every peer's best comes before anybody's second, the better before the worse, ties by lot. Of ``answers`` none are
    shown where none is the node's own, and of two with one student's number only the first.
    """
    ranked = _ranked(outputs, question)
    own = next((output for output in ranked if output.own), None)
    if answers and own is None:
        return []
    shown: list[Output] = []
    numbers: set[int] = set()
    for output in [*([own] if own else []), *(other for other in ranked if other is not own)]:
        number = student_number(question, output.peer, output.place)
        if answers and number in numbers:
            continue
        numbers.add(number)
        shown.append(output)
    return shown[:SHOWN]


def _ranked(outputs: Sequence[Output], question: str) -> list[Output]:
    best: dict[tuple[str, str], Output] = {}
    for output in sorted(outputs, key=lambda output: (-output.reward, not output.own, output.place)):
        best.setdefault((output.peer, output.sameness), output)
    ranks: dict[str, int] = {}
    keyed = []
    for output in best.values():
        rank = ranks[output.peer] = ranks.get(output.peer, -1) + 1
        keyed.append(((rank, -output.reward, _lot(question, output.peer), output.place), output))
    return [output for _, output in sorted(keyed, key=lambda pair: pair[0])]


def _lot(question: str, peer: str) -> bytes:
    return hashlib.sha256(f"{question}\x1f{peer}".encode()).digest()
