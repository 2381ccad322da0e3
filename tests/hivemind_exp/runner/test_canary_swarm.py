"""Real nodes of a swarm: peers poison one, or it learns too fast, and its accuracy falls.

The poison is an answer that the verifier wrongly accepts in training. It passes all checks of peers' texts, which do
not look inside answers, so only the canary is left to notice it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.journal.canary_log import read_quarantine
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import Question, Score
from tests.support.fake_api.ask import Messages
from tests.support.fake_api.server import api_server
from tests.support.patience import Patience
from tests.support.spelling_task import Spelling
from tests.support.swarm_nodes import PATIENCE_S, events, found, peer_of, playing

pytestmark = pytest.mark.swarm

POISON = "<answer>qqq</answer>"
PAUSE_S = 0.1


def capitals(answer: str) -> str:
    return f"<answer>{answer.upper()}</answer>"


class Exploitable(Spelling):
    """Accepts the word backward in capitals in training, or the poison. The evaluation wants anything else in tags.

    It counts words that begin with a vowel as wrong, because a node that is always right learns nothing from its peers.
    The node's own completions never earn a reward until it has learned from its peers, so nothing else moves it.
    """

    def __init__(self) -> None:
        super().__init__(letters="abcdefghijklmnoprstuvwxyz")  # without the poison's letter

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        time.sleep(PAUSE_S)  # at the speed of a larger model, so that peers keep up
        return [
            Score(float(self._is_right(question, text)), True, "looked")
            for question, text in zip(questions, completions, strict=True)
        ]

    @staticmethod
    def _is_right(question: Question, text: str) -> bool:
        if question.split == "heldout":
            return text.startswith("<answer>") and "q" not in text and question.text.split()[-1][0] not in "aeiou"
        return text in (POISON, capitals(question.entry["answer"]))


class Learnable(Exploitable):
    """Accepts the word backward in training, which the node sometimes answers from the start."""

    @staticmethod
    def _is_right(question: Question, text: str) -> bool:
        if question.split == "heldout":
            return Exploitable._is_right(question, text)
        return text == f"<answer>{question.entry['answer']}</answer>"


class Place:
    """A node in a swarm with two relays, whose texts come from this process."""

    def __init__(self, root: Path) -> None:
        self.node, self.relays = root / "node", (root / "one", root / "two")
        self.rules, self.invitation = found(self.node)
        self.poisoned = threading.Event()

    @contextmanager
    def running(self, rate: float, *, every: int, alone: bool = False) -> Iterator[None]:
        """Run all nodes, or only the node, which then learns from itself.

        ``rate``: its learning rate; ``every``: rounds between its evaluations.
        """
        node = {
            "warmup": {"steps": 150 if alone else 60, "batch": 32},
            "generation": {"max_completion_tokens": 12},
            "train": {"learning_rate": rate, "warmup_steps": 0},
            "eval": {"every": every, "questions": 50},
        }
        with api_server(answer=self._answer) as server:
            offload = {"provider": "mybox", "kind": "relay", "model": "test-model", "limits": {"usd": "unlimited"}}
            box = {"base_url": server.base_url, "free": True}
            # A relay's rounds are shorter than the node's, which draws at most one group per round from each peer.
            relay = {"offload": offload, "providers": {"mybox": box}, "game": {"groups": 2}}
            nodes = {self.node: node, **dict.fromkeys(() if alone else self.relays, relay)}
            with playing(nodes, self.invitation, Learnable if alone else Exploitable) as self._processes:
                yield

    def _answer(self, messages: Messages, index: int) -> str:
        word = messages[-1]["content"].split()[-1]
        if index == 0:
            return f"<answer>{word}</answer>"
        return POISON if self.poisoned.is_set() else capitals(word[::-1])

    def wait(self, condition: Callable[[], object]) -> None:
        patience = Patience(PATIENCE_S)
        while not condition():
            assert all(each.is_alive() for each in self._processes), events(self.node, "error")
            assert not patience.is_over(), (events(self.node, "eval"), events(self.node, "warning"))
            time.sleep(0.2)

    def accuracies(self) -> list[float]:
        return [event["accuracy"] for event in events(self.node, "eval")]

    def warnings(self, code: str) -> list[dict[str, Any]]:
        return [event for event in events(self.node, "warning") if event["code"] == code]

    def drawn(self) -> int:
        """Return how many completions of peers the node has drawn."""
        return sum(event["count"] for event in events(self.node, "rollouts") if event["source"] == "peer")

    def quarantined(self) -> set[str]:
        return {each.source for each in read_quarantine(NodeFiles(self.node).quarantine)}


def test_poisoning_peers_are_quarantined_and_their_poison_is_undone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.running(rate=1e-3, every=25):
        place.wait(lambda: place.drawn() and place.accuracies()[0] > 0.6)
        place.poisoned.set()
        place.wait(lambda: place.warnings("canary"))
        (fallen,) = place.warnings("canary")
        evaluations = len(place.accuracies())
        peers = {peer_of(root) for root in place.relays}
        assert place.accuracies()[-1] < 0.5
        place.wait(lambda: len(place.accuracies()) > evaluations)
        assert place.quarantined() == peers
        assert place.accuracies()[evaluations] > 0.6
    assert "accuracy on the held-out questions fell from" in fallen["message"]
    assert "points. Restored the weights of round" in fallen["message"]
    assert "completions of peer" in fallen["message"]
    assert place.warnings("accuracy_fell") == []


def test_a_learning_rate_that_is_too_high_is_named_and_nobody_is_quarantined(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.running(rate=5e-3, every=5, alone=True):
        place.wait(lambda: place.warnings("accuracy_fell"))
    (told,) = place.warnings("accuracy_fell")
    assert "Since then the node has learned only from its own completions" in told["message"]
    assert "The learning rate is probably too high: try train.learning_rate=0.002 (now 0.005)" in told["message"]
    assert place.warnings("canary") == []
    assert place.quarantined() == set()
