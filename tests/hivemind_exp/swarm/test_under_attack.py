"""All attacks in ``attacks.ATTACKS`` at once, against real nodes that learn, compared with the same nodes in peace.

Nodes with equal names have equal seeds, weights and questions in both swarms. Single attacks and single bundles are
tested beside the modules that stop them. These tests check their combined effect on nodes that learn.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hivemind_exp.peers.records import FILE_NAME, PeerRecord, read_peers, weight
from hivemind_exp.swarm.identity import Identity
from swarmctl.nodes.directory import identity
from swarmctl.storage.json_file import write_json
from tests.support.fake_api.remote import api_process
from tests.support.forked_swarmctl import swarmctl
from tests.support.hostile.arena import CAP, GROUP, GROUPS, PRICE, Arena, Honest, found_swarm, make_base
from tests.support.hostile.attacks import ATTACKS, ESCAPES, MARK, POISON
from tests.support.hostile.hostile_node import Hostile
from tests.support.hostile.siege import Siege, outsider

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(1800)]

ROUNDS = 20
"""About ten rounds until all nodes have met, and then the rest, some of them after every attack was served."""
PATIENCE_S = 400.0
"""Seconds in which the nodes were able to act: on a busy machine, it takes longer."""
NAMES = ("student", "payer")
NOISE = 0.15
"""Random difference in accuracy between two swarms of two nodes after so few rounds. 200 questions have a standard
error of 0.035, and nodes whose peers' groups arrive a moment later learn from different ones."""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of the two swarms, and what the attackers recorded."""

    home: Path
    peaceful: list[Honest]
    attacked: list[Honest]
    told: Counter[tuple[str, str]]
    villains: dict[str, str]
    """The attack that each villain started with, by peer id."""
    trap: bool
    """Whether code in an answer was executed."""
    begun: float
    """When the attacks began, Unix seconds."""

    @property
    def pairs(self) -> list[tuple[Honest, Honest]]:
        """Each attacked node with its counterpart in the peaceful swarm."""
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
"""Attacks with bundles."""


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
    """Whether a node has drawn groups from all other nodes. ``since``: Unix seconds."""
    return {other.peer_id for other in nodes} - {node.peer_id} <= {peer for peer, _, _ in node.heard(since)}


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
            # While no node knows another, honest nodes are strangers like the attackers.
            attacked.until(lambda: all(acquainted(node, attacked.nodes) for node in attacked.nodes), PATIENCE_S)
            siege.begin()
            begun = time.time()
            with Hostile(home / "outsider", swarm="6b" * 32) as stranger:
                outsider(stranger, attacked.nodes, siege.told)
            attacked.until(lambda: served(siege.told) >= SERVING, PATIENCE_S)
            # On a busy machine, the remaining rounds may be shorter than the pause after a fetch that failed.
            attacked.until(lambda: all(acquainted(node, attacked.nodes, begun) for node in attacked.nodes), PATIENCE_S)
            for arena in (attacked, peaceful):
                arena.go_on()
            attacked.wait(PATIENCE_S)
        assert siege.failures == []
        peaceful.wait(PATIENCE_S)
        villains = {villain.peer_id: name for name, villain in siege.villains.items()}
        trap = any(villain.trap.exists() for villain in siege.villains.values())
        yield Outcome(home, peaceful.nodes, attacked.nodes, siege.told, villains, trap, begun)
    shutil.rmtree(home, ignore_errors=True)


def test_every_attack_reached_the_honest_nodes(outcome: Outcome) -> None:
    told = outcome.told
    assert all(told[name, "played"] for name in ATTACKS)
    for name in REFUSED:
        assert told[name, "refused"]
        assert not told[name, "taken"], name
    assert all(told[name, "kept waiting"] for name in STALLED)
    assert told[CROWD, "taken"]  # real identities with valid signatures: only their effect is limited
    assert served(told) >= SERVING


def test_honest_nodes_learn_as_well_as_without_attacks(outcome: Outcome) -> None:
    after = {
        name: sum(node.accuracy[1] for node in nodes) / len(nodes)
        for name, nodes in (("peaceful", outcome.peaceful), ("attacked", outcome.attacked))
    }
    assert after["attacked"] > after["peaceful"] - NOISE, after
    for attacked, peaceful in outcome.pairs:
        assert attacked.accuracy[0] == peaceful.accuracy[0]  # they started with the same weights
        assert len(attacked.events("round")) == len(peaceful.events("round")) == ROUNDS
        assert attacked.events("error") == []
        # They keep learning from each other.
        later = [event["round"] for event in attacked.events("round") if event["t"] >= outcome.begun]
        heard = Counter(peer for peer, _, _ in attacked.heard(outcome.begun))
        assert acquainted(attacked, outcome.attacked, outcome.begun), (later, heard, attacked.unused())


def test_poison_is_not_learned(outcome: Outcome) -> None:
    for node in outcome.attacked:
        assert not [text for text in node.said() if POISON in text or MARK in text]
        heard, lessons = node.heard(), node.lessons()
        assert not [text for _, text, reward in heard if MARK in text and reward]  # no wrong answer got a reward
        poisoned = Counter(peer for peer, text, reward in heard if POISON in text and reward)
        assert poisoned, "no poison reached the last filter, so this tested nothing"
        # A peer may fill at most an eighth of a batch.
        assert max(poisoned.values()) <= ROUNDS * 2 * GROUPS * GROUP / 8
        assert sum(poisoned.values()) <= sum(lessons.values())
        # The last filter removes nearly all of the rest, because this node would hardly write it itself.
        assert node.filtered() >= 0.9 * sum(poisoned.values())


def test_attacks_do_not_change_spending(outcome: Outcome) -> None:
    (_, (attacked, peaceful)) = outcome.pairs
    assert 0 < attacked.spent <= CAP
    assert attacked.spent == pytest.approx(peaceful.spent, rel=1e-9)


def test_memory_threads_and_processes_are_bounded(outcome: Outcome) -> None:
    for attacked, peaceful in outcome.pairs:
        assert attacked.peak.bytes < peaceful.peak.bytes + 300 * 2**20
        assert attacked.peak.threads <= peaceful.peak.threads + 2
        assert attacked.peak.processes <= peaceful.peak.processes + 1  # a verifier that is being replaced
        assert attacked.left == []


def test_violations_are_counted_and_honest_nodes_keep_their_standing(outcome: Outcome) -> None:
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


def test_code_in_answers_is_not_executed(outcome: Outcome) -> None:
    assert not outcome.trap


COMMANDS = (
    ("rollouts", "show", "--source", "peer", "--last", "2000", "--full"),
    ("rollouts", "show", "--source", "peer", "--last", "2000", "--full", "--json"),
    ("rollouts", "stats"),
    ("swarm", "peers"),
    ("swarm", "leaderboard"),
    ("status",),
)


def test_logs_and_output_contain_no_control_characters(outcome: Outcome) -> None:
    for node in outcome.attacked:
        for path in (node.files.log, node.files.events):
            text = path.read_bytes().decode().replace("\r", "")  # libraries draw progress bars with it
            assert not CONTROLS.search(text), path
    shown = [node for node in outcome.attacked if any(ESCAPES[:4] in text for _, text, _ in node.heard())]
    assert shown, "no text with escapes was ever drawn, so this tested nothing"
    write_json(shown[0].files.identity, identity(shown[0].config))
    for command in COMMANDS:
        ran = swarmctl(*command, "--node", shown[0].root.name, SWARMCTL_HOME=str(outcome.home), COLUMNS="100")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip()
        assert not CONTROLS.search(ran.stdout + ran.stderr), command
