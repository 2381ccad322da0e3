"""Every attack of ``attacks.ATTACKS`` at once, against real nodes that learn, beside the same nodes left in peace.

Equal names have equal seeds, weights and questions in both swarms. What single attacks meet on the wire, and what
single bundles do, is tested beside the modules that stop them; here it is what they do together to nodes that learn.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hivemind_exp.peers.records import FILE_NAME, PeerRecord, read_peers, weight
from hivemind_exp.swarm.identity import Identity
from swarmctl.nodes.directory import identity
from swarmctl.storage.json_file import write_json
from tests.support.fake_api.remote import api_process
from tests.support.hostile.arena import CAP, GROUP, GROUPS, PRICE, Arena, Honest, found_swarm, make_base
from tests.support.hostile.attacks import ATTACKS, ESCAPES, MARK, POISON
from tests.support.hostile.hostile_node import Hostile
from tests.support.hostile.siege import Siege, outsider

pytestmark = pytest.mark.swarm

ROUNDS = 28
"""Some ten of them until everybody has met everybody, and then the rest."""
PATIENCE_S = 200.0
NAMES = ("student", "payer")
NOISE = 0.15
"""Accuracy by which two swarms of two nodes differ after so few rounds for no reason: 200 questions have a standard
error of 0.035, and nodes whose peers' groups come a moment later learn from other ones."""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was left of the two swarms, and what the attackers saw."""

    home: Path
    peaceful: list[Honest]
    attacked: list[Honest]
    told: Counter[tuple[str, str]]
    villains: dict[str, str]
    """The attacks that each villain began with, by peer id."""
    trap: bool
    """Whether code in an answer ran."""
    begun: float
    """When the attacks began, Unix seconds."""

    @property
    def pairs(self) -> list[tuple[Honest, Honest]]:
        """Each attacked node with the one that was left in peace."""
        return list(zip(self.attacked, self.peaceful, strict=True))

    def book(self, node: Honest) -> dict[str, PeerRecord]:
        return read_peers(node.files.swarm / FILE_NAME)


REFUSED = (
    "forged_owner",
    "replayed_and_reordered",
    "undecodable_values",
    "plain_over_dictionary",
    "ten_years_ahead",
    "from_the_future",
    "ten_thousand_subkeys",
    "outsider",
)
STALLED = ("never_serves", "byte_a_second")
CROWD = "thousand_identities"
SERVING = ATTACKS.keys() - set(REFUSED) - set(STALLED) - {CROWD}
"""Attacks that are bundles."""


def served(told: Counter[tuple[str, str]]) -> set[str]:
    return {name for name in ATTACKS if told[name, "served"]}


def swarm(root: Path, rules: object, founder: Identity, base: Path, url: str) -> Arena:
    arena = Arena(root, rules, founder, base, slow=True)  # type: ignore[arg-type]
    arena.add("student", seed=1, rounds=ROUNDS)
    arena.add(
        "payer",
        seed=2,
        rounds=ROUNDS,
        offload={
            "provider": "box",
            "model": "teacher",
            "share": 0.5,
            "fallback": [],
            "limits": {"usd": CAP},
            "prices": {"box": PRICE},
        },
        providers={"box": {"base_url": url, "group": "n"}},
    )
    return arena


def acquainted(node: Honest, nodes: list[Honest], since: float = 0.0) -> bool:
    """Whether a node has drawn groups of all the others. ``since``: Unix seconds."""
    return {other.peer_id for other in nodes} - {node.peer_id} <= {peer for peer, _, _ in node.heard(since)}


def until(missing: Callable[[], Collection[str]]) -> None:
    """Wait until nothing is missing."""
    end = time.monotonic() + PATIENCE_S
    while left := missing():
        assert time.monotonic() < end, left
        time.sleep(0.2)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    home = tmp_path_factory.mktemp("hostile")
    founder = Identity.generate()
    rules = found_swarm(founder)
    base = home / "base"
    make_base(base, steps=120, seed=0)
    with ExitStack() as ends:
        server = ends.enter_context(api_process(answer="benchmarks.offload_learning:teach", models=["teacher"]))
        peaceful = ends.enter_context(swarm(home / "peaceful", rules, founder, base, server.base_url))
        attacked = ends.enter_context(swarm(home / "nodes", rules, founder, base, server.base_url))
        attacked.start()
        peaceful.start()
        with Siege(home / "hostile", attacked.nodes, rules, list(ATTACKS)) as siege:
            attacked.begin(PATIENCE_S)
            peaceful.begin(PATIENCE_S)
            # In a swarm where nobody knows anybody, honest nodes are strangers like all the others.
            until(lambda: [node.root.name for node in attacked.nodes if not acquainted(node, attacked.nodes)])
            siege.begin()
            begun = time.time()
            with Hostile(home / "outsider", swarm="6b" * 32) as stranger:
                outsider(stranger, attacked.nodes, siege.told)
            until(lambda: SERVING - served(siege.told))
            for arena in (attacked, peaceful):
                arena.go_on()
            attacked.wait(PATIENCE_S)
        assert siege.failures == []
        peaceful.wait(PATIENCE_S)
        villains = {villain.peer_id: name for name, villain in siege.villains.items()}
        trap = any(villain.trap.exists() for villain in siege.villains.values())
        yield Outcome(home, peaceful.nodes, attacked.nodes, siege.told, villains, trap, begun)
    shutil.rmtree(home, ignore_errors=True)


def test_every_attack_reached_the_honest(outcome: Outcome) -> None:
    told = outcome.told
    assert all(told[name, "played"] for name in ATTACKS)
    for name in REFUSED:
        assert told[name, "refused"]
        assert not told[name, "taken"], name
    assert all(told[name, "kept waiting"] for name in STALLED)
    assert told[CROWD, "taken"]  # real names with real signatures: it is what they do that is bounded
    assert served(told) >= SERVING


def test_honest_nodes_end_as_if_nobody_had_attacked(outcome: Outcome) -> None:
    after = {
        name: sum(node.accuracy[1] for node in nodes) / len(nodes)
        for name, nodes in (("peaceful", outcome.peaceful), ("attacked", outcome.attacked))
    }
    assert after["attacked"] > after["peaceful"] - NOISE, after
    for attacked, peaceful in outcome.pairs:
        assert attacked.accuracy[0] == peaceful.accuracy[0]  # they were one and the same to begin with
        assert len(attacked.events("round")) == len(peaceful.events("round")) == ROUNDS
        assert attacked.events("error") == []
        # They go on learning from each other.
        assert acquainted(attacked, outcome.attacked, outcome.begun)


def test_poison_is_not_learned(outcome: Outcome) -> None:
    for node in outcome.attacked:
        assert not [text for text in node.said() if POISON in text or MARK in text]
        heard, lessons = node.heard(), node.lessons()
        assert not [text for _, text, reward in heard if MARK in text and reward]  # no wrong answer ever paid
        poisoned = Counter(peer for peer, text, reward in heard if POISON in text and reward)
        assert poisoned, "no poison came through to the last filter, so nothing was tried"
        # What a peer may fill of a batch: an eighth.
        assert max(poisoned.values()) <= ROUNDS * 2 * GROUPS * GROUP / 8
        assert sum(poisoned.values()) <= sum(lessons.values())
        # And what is left of that is not what this node would write itself.
        assert node.filtered() >= 0.9 * sum(poisoned.values())


def test_spending_is_nobodys_business(outcome: Outcome) -> None:
    (_, (attacked, peaceful)) = outcome.pairs
    assert 0 < attacked.spent <= CAP
    assert attacked.spent == pytest.approx(peaceful.spent, rel=1e-9)


def test_memory_threads_and_processes_are_bounded(outcome: Outcome) -> None:
    for attacked, peaceful in outcome.pairs:
        assert attacked.peak.bytes < peaceful.peak.bytes + 300 * 2**20
        assert attacked.peak.threads <= peaceful.peak.threads + 2
        assert attacked.peak.processes <= peaceful.peak.processes + 1  # a verifier that is just being replaced
        assert attacked.left == []


def test_what_breaks_the_rules_is_counted_and_costs_standing(outcome: Outcome) -> None:
    refused: Counter[str] = Counter()
    for node in outcome.attacked:
        book = outcome.book(node)
        for peer, name in outcome.villains.items():
            if peer in book:
                refused[name] += book[peer].refused
        for other in outcome.attacked:
            if other is not node:
                assert book[other.peer_id].refused == 0
                assert weight(book[other.peer_id].standing) > 0.8
    assert min(refused[name] for name in ("zip_bomb", "from_the_future", "near_duplicates", "copied_rollouts")) > 0


def test_code_in_answers_ran_nowhere(outcome: Outcome) -> None:
    assert not outcome.trap


COMMANDS = (
    ("rollouts", "show", "--source", "peer", "--last", "2000", "--full"),
    ("rollouts", "show", "--source", "peer", "--last", "2000", "--full", "--json"),
    ("rollouts", "stats"),
    ("swarm", "peers"),
    ("swarm", "leaderboard"),
    ("status",),
)


def test_what_people_see_is_free_of_control_characters(outcome: Outcome) -> None:
    for node in outcome.attacked:
        for path in (node.files.log, node.files.events):
            text = path.read_bytes().decode().replace("\r", "")  # with which libraries draw their progress
            assert not CONTROLS.search(text), path
    shown = [node for node in outcome.attacked if any(ESCAPES[:4] in text for _, text, _ in node.heard())]
    assert shown, "no escape was ever drawn, so nothing was tried"
    write_json(shown[0].files.identity, identity(shown[0].config))
    environment = os.environ | {"SWARMCTL_HOME": str(outcome.home), "COLUMNS": "100"}
    for command in COMMANDS:
        ran = subprocess.run(
            [sys.executable, "-m", "swarmctl", *command, "--node", shown[0].root.name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip()
        assert not CONTROLS.search(ran.stdout + ran.stderr), command
