"""What of everybody's outputs a later stage shows: a few, the best of each first, at least one of the node's own.

Pure functions of what was heard. Nothing is kept between calls, so that what comes late counts from the next call on,
and nobody is waited for: what is missing is not shown, and without any peer there is the node's own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
class Heard:
    """One output, before anybody judged it."""

    peer: str
    place: int
    """In the peer's group."""
    text: str


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


def student_number(question: str, peer: str, place: int) -> int:
    """Return the number under which an answer is shown, three digits that follow from the question and whose it is.

    A rank among those present would be another for each node, as none hears all: then a critic's "Student 3" would be
    somebody else to whoever reads the critique. And a number that a peer kept from question to question would teach
    whom to believe, not what.
    """
    digest = hashlib.sha256(f"{question}\x1f{peer}\x1f{place}".encode()).digest()
    return _FIRST_NUMBER + int.from_bytes(digest[:4], "big") % _NUMBERS


def heard(outputs: Mapping[str, Mapping[str, Sequence[str]]], question: str, *, besides: str) -> list[Heard]:
    """Return what is looked at of peers' outputs for a question (its digest), bounded whatever they send.

    ``besides``: the node's own peer id, under which nobody else is believed.
    """
    peers = [peer for peer, groups in outputs.items() if peer != besides and groups.get(question)]
    peers.sort(key=lambda peer: _lot(question, peer))
    return [
        Heard(peer, place, text)
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
