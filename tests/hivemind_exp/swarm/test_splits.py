"""Real nodes in a network split: both sides keep running, and find each other when the network is restored."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hivemind_exp.swarm.contacts import KnownPeers
from tests.support.chaos import evidence
from tests.support.chaos.namespaces import Network, obstacle
from tests.support.chaos.nodes import ForkedSwarm, Node, Swarm
from tests.support.chaos.patience import until
from tests.support.chaos.storm import PATIENCE_S, SMALL, gather, teller

pytestmark = pytest.mark.swarm

HEALED_S = 75.0
"""Time limit for a swarm to reconnect after a network split. On an idle machine it takes about 6 s."""


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip the test if network namespaces are not available."""
    if (why := obstacle()) is not None:
        pytest.skip(why)


def hears(swarm: Swarm, since: float) -> set[evidence.Pair]:
    return set(evidence.hearing(swarm.nodes, swarm.invitation.charter, since))


def all_of(swarm: Swarm) -> set[evidence.Pair]:
    return evidence.pairs(swarm.nodes)


def kill(node: Node) -> None:
    assert node.life is not None
    node.deaths += 1
    node.life.kill()
    assert node.life.wait(10)


def remembers(node: Node) -> int:
    """Return how many peers a node has saved on disk."""
    return len(KnownPeers(node.files.swarm / "known-peers.json").items())


def codes(node: Node) -> list[str]:
    return [event["code"] for event in node.events("warning")]


def end(swarm: Swarm) -> None:
    """Stop all nodes and check what they leave behind."""
    for node in swarm.nodes:
        swarm.stop(node)
    assert [fault for node in swarm.nodes for fault in evidence.faults(node, swarm.invitation.charter)] == []
    until(lambda: not swarm.left_processes() and not swarm.left_sockets(), 3)
    assert swarm.left_processes() == []
    assert swarm.left_sockets() == []


@pytest.mark.usefixtures("namespaces")
def test_a_bootstrap_node_that_restarts_during_a_split_is_found_again(tmp_path: Path) -> None:
    say = teller()
    with Network([1, 2]) as network:
        with ForkedSwarm(tmp_path, ["founder", "bert", "cleo"], network.namespaces, SMALL) as swarm:
            founder = swarm.founder
            gather(swarm, say)
            assert "/ip4/10.77.0.1/" in str(swarm.invitation)
            assert until(lambda: remembers(founder) == 2, PATIENCE_S)  # saved within seconds of their joining
            network.cut(0)
            cut = time.time()
            kill(founder)
            swarm.start(founder)
            before = [node.rounds() for node in swarm.nodes]
            assert until(lambda: "swarm_alone" in codes(founder), PATIENCE_S, swarm.watch)
            say("cut, and the creator's node restarted alone")
            assert until(lambda: all(n.rounds() > b + 10 for n, b in zip(swarm.nodes, before, strict=True)), PATIENCE_S)
            assert until(lambda: {("bert", "cleo"), ("cleo", "bert")} <= hears(swarm, cut + 1), PATIENCE_S)
            assert not any("founder" in pair for pair in hears(swarm, cut + 1))
            network.heal(0)
            healed = time.time()
            say("each side kept running separately; healed")
            assert until(lambda: all_of(swarm) <= hears(swarm, healed), HEALED_S, swarm.watch), hears(swarm, healed)
            say(f"whole again after {time.time() - healed:.1f} s")
            end(swarm)


def test_nodes_without_their_bootstrap_node_start_alone_and_find_each_other(tmp_path: Path) -> None:
    say = teller()
    with ForkedSwarm(tmp_path, ["founder", "bert", "cleo"], settings=SMALL) as swarm:
        founder, bert, cleo = swarm.nodes
        gather(swarm, say)
        for node in swarm.nodes:
            assert until(lambda node=node: remembers(node) == 2, PATIENCE_S)  # type: ignore[misc]
        for node in swarm.nodes:
            kill(node)
        dead, before = time.time(), bert.rounds()
        swarm.start(bert)
        assert until(lambda: "swarm_alone" in codes(bert) and bert.rounds() > before + 10, PATIENCE_S, swarm.watch)
        say("bert started alone")
        swarm.start(cleo)
        assert until(lambda: {("bert", "cleo"), ("cleo", "bert")} <= hears(swarm, dead), HEALED_S, swarm.watch)
        say("bert and cleo found each other; the creator's node is still dead")
        swarm.start(founder)
        back = time.time()
        assert until(lambda: all_of(swarm) <= hears(swarm, back), HEALED_S, swarm.watch), hears(swarm, back)
        say(f"whole again {time.time() - back:.1f} s after the creator's node restarted")
        end(swarm)
