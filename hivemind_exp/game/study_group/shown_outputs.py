"""Selects the outputs of earlier stages that a later stage shows: this node's own from its journal, and peers'.

This node judges peers' outputs itself, from their text and the question that it generated. It ignores what peers claim
about them. A later stage shows a few outputs, each peer's best first, and at least one of the node's own. Nothing is
kept between calls, so late outputs count from the next call on. The node never waits for a peer: missing outputs are
not shown, and without peers a stage shows the node's own.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from hivemind_exp.game.study_group.prompts import ANSWER, CRITIQUE, LONGEST_QUOTATION, PeerText, Student, shortened
from hivemind_exp.game.study_group.rewards import Choice, choice_in, majority_of, score_answer, score_critique
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.verifiers.reader import read, reference_of
from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW

SHOWN = 4
"""Maximum number of outputs that a later stage shows."""
MOST_PEERS = 16
"""Maximum number of peers whose outputs for one question are considered. The question determines the choice, so the
peers vary by question, and nodes that received the same outputs choose the same peers."""
MOST_TEXTS = 8
"""Maximum number of outputs considered per peer and question. More would only cost time."""
LONGEST_TEXT = 16_384
"""Characters in the longest output that is considered."""
_FIRST_NUMBER, _NUMBERS = 100, 900


class PeerOutputs(Protocol):
    """The outputs that peers have published. They are untrusted text."""

    def outputs(self, round: int, stage: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return the outputs received so far for a stage. Never waits.

        Maps each peer id and question digest to the texts of a whole group, in slot order.
        """


class NoPeers:
    """Stands in for the peers of a node that plays alone."""

    def outputs(self, round: int, stage: str) -> Mapping[str, Mapping[str, Sequence[str]]]:  # noqa: ARG002
        return {}


@dataclass(frozen=True, slots=True)
class Output:
    """One output with its score on this node."""

    peer: str
    place: int
    text: str
    reward: float
    """As computed on this node. The author's claim is ignored."""
    outcome: float
    own: bool
    """Whether this node's own weights generated it."""
    sameness: str
    """Outputs of one peer with equal ``sameness`` mean the same, so only one of them is shown."""


class ShownOutputs:
    """Looks outputs up. Remembers only which peers' outputs held up the verifier."""

    def __init__(self, me: str, places: range, *, tasks: Tasks, journal: Journal, peers: PeerOutputs) -> None:
        """``me``: the node's peer id; ``places``: the slots of its groups."""
        self._me = me
        self._places = places
        self._tasks = tasks
        self._journal = journal
        self._peers = peers
        self._slow: set[str] = set()

    def students(self, round_: int, questions: Sequence[Question]) -> dict[str, list[Student]]:
        """Return the answers to show, by question digest. Empty for a question that this node has not answered."""
        said = self._peers.outputs(round_, ANSWER)
        found = {question.digest: heard(said, question.digest, besides=self._me) for question in questions}
        shown = {}
        for question in questions:
            answer = partial(_answer, question)
            outputs = list(self._own(round_, ANSWER, question, answer))
            for each, verified in self._verified(question, found[question.digest]):
                outputs.append(_output(each, score_answer(question, each.text, verified), answer(each.text)))
            picked = select(outputs, question.digest, answers=True)
            shown[question.digest] = [_student(question.digest, output) for output in picked]
        return shown

    def critics(
        self, round_: int, question: Question, students: Mapping[int, float]
    ) -> tuple[list[PeerText], tuple[Choice, ...]]:
        """Return the critiques to show for a question, and what most critics chose, with one vote per node.

        ``students``: the outcomes of the answers shown, by number.
        """
        outputs = list(self._own(round_, CRITIQUE, question, _choice))
        for each in heard(self._peers.outputs(round_, CRITIQUE), question.digest, besides=self._me):
            outputs.append(_output(each, score_critique(each.text, students), _choice(each.text)))
        shown = select(outputs, question.digest, answers=False)
        critics = [PeerText(output.peer, output.place, shortened(output.text, LONGEST_QUOTATION)) for output in shown]
        return critics, _majority(outputs, students)

    def _verified(self, question: Question, outputs: Sequence[PeerText]) -> Iterator[tuple[PeerText, Score]]:
        """Yield peers' outputs with the verifier's scores.

        Verifies one output per peer at a time. Skips the rest of a peer whose output made the verifier time out or
        crash: each such output costs seconds, and a time slot has few to spare.
        """
        for place in sorted({each.place for each in outputs}):
            wave = [each for each in outputs if each.place == place and each.peer not in self._slow]
            scores = self._tasks.score([question] * len(wave), [each.text for each in wave]) if wave else []
            for each, score in zip(wave, scores, strict=True):
                if score.why == TOO_SLOW or not score.judged:
                    self._slow.add(each.peer)
                else:
                    yield each, score

    def _own(self, round_: int, stage: str, question: Question, sameness: Callable[[str], str]) -> Iterator[Output]:
        for place, kind, text, score in self._journal.scored(round_, stage, question.digest, self._places):
            yield Output(self._me, place, text, score.reward, score.outcome, own=kind.own, sameness=sameness(text))


def outcomes(notes: Mapping[str, Any]) -> dict[int, float]:
    """Return the outcome of each answer that a prompt shows, by number. ``notes`` are the prompt's."""
    return {student["number"]: student["outcome"] for student in notes["students"]}


def students_of(notes: Mapping[str, Any]) -> list[Student]:
    """Return the answers that a prompt shows. ``notes`` are the prompt's."""
    return [Student(**student) for student in notes["students"]]


def _output(each: PeerText, score: Score, sameness: str) -> Output:
    return Output(each.peer, each.place, each.text, score.reward, score.outcome, own=False, sameness=sameness)


def _student(question: str, output: Output) -> Student:
    number = student_number(question, output.peer, output.place)
    return Student(number, output.peer, output.place, output.outcome, shortened(output.text, LONGEST_QUOTATION))


def _answer(question: Question, text: str) -> str:
    """Return a text that is equal for answers that mean the same."""
    reading = read(text, reference_of(question.entry))
    return " ".join((text if reading is None else reading.answer).casefold().split())


def _choice(text: str) -> str:
    """Return a text that is equal for critiques that mean the same."""
    return str(choice_in(text, "identify"))


def _majority(critiques: Sequence[Output], students: Mapping[int, float]) -> tuple[Choice, ...]:
    by_peer: dict[str, list[Choice]] = {}
    for critique in critiques:
        by_peer.setdefault(critique.peer, []).append(choice_in(critique.text, "identify"))
    return majority_of([vote for choices in by_peer.values() for vote in majority_of(choices, students)], students)


def student_number(question: str, peer: str, place: int) -> int:
    """Return the three-digit number under which an answer is shown.

    It follows from the question and from the answer's author and slot.

    A rank would differ between nodes, because no node receives all answers. A critic's "Student 3" would then be
    a different student to each reader. And if a peer kept its number from question to question, the model would learn
    whom to trust rather than what is correct.
    """
    digest = hashlib.sha256(f"{question}\x1f{peer}\x1f{place}".encode()).digest()
    return _FIRST_NUMBER + int.from_bytes(digest[:4], "big") % _NUMBERS


def heard(outputs: Mapping[str, Mapping[str, Sequence[str]]], question: str, *, besides: str) -> list[PeerText]:
    """Return the peers' outputs to consider for a question (its digest), bounded in number and length.

    ``besides``: the node's own peer id. Outputs that claim to be from it are ignored.
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
    """Return at most ``SHOWN`` outputs to show, the node's own best one first.

    Every peer's best comes before any peer's second best, and better ones come before worse ones. Ties are broken by
    lot. ``answers``: the outputs are answers. Then none are shown if none is the node's own, and of two answers with
    the same student number only the first is shown.
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
