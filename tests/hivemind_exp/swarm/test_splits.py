"""Real nodes on networks that break apart: both sides go on, and find each other when the network is whole again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import evidence
from tests.chaos.namespaces import Network, obstacle
from tests.chaos.nodes import ForkedSwarm, Node, Swarm, until
from tests.chaos.storm import PATIENCE_S, SMALL, gather, teller

HEALED_S = 75.0
"""In which a swarm must be whole again after its network is: a peer that does not answer is tried again every 20 s."""


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where no network namespaces can be made."""
    if (why := obstacle()) is not None:
        pytest.skip(why)


def hears(swarm: Swarm, since: float) -> set[evidence.Pair]:
    return set(evidence.hearing(swarm.nodes, swarm.invitation.charter, since))


def codes(node: Node) -> list[str]:
    return [event["code"] for event in node.events("warning")]


def end(swarm: Swarm) -> None:
    """Stop all nodes and hold what they leave against what must be."""
    for node in swarm.nodes:
        swarm.stop(node)
    assert [fault for node in swarm.nodes for fault in evidence.faults(node, swarm.invitation.charter)] == []
    until(lambda: not swarm.left_processes() and not swarm.left_sockets(), 3)
    assert swarm.left_processes() == []
    assert swarm.left_sockets() == []


@pytest.mark.usefixtures("namespaces")
def test_a_bootstrap_that_restarts_alone_behind_a_cut_is_found_again(tmp_path: Path) -> None:
    say = teller()
    with Network([1, 2]) as network:
        with ForkedSwarm(tmp_path, ["founder", "bert", "cleo"], network.namespaces, SMALL) as swarm:
            founder, bert, cleo = swarm.nodes
            gather(swarm, say)
            assert "/ip4/10.77.0.1/" in str(swarm.invitation)
            network.cut(0)
            cut = time.time()
            say("cut")
            assert founder.life is not None
            founder.life.kill()
            founder.deaths += 1
            assert founder.life.wait(10)
            swarm.start(founder)
            before = [node.rounds() for node in swarm.nodes]
            assert until(lambda: "swarm_alone" in codes(founder), PATIENCE_S, swarm.watch)
            say("the founder knows that it is alone")
            # What came before the cut is used up within seconds.
            assert until(lambda: all(n.rounds() > b + 20 for n, b in zip(swarm.nodes, before, strict=True)), PATIENCE_S)
            assert until(lambda: {("bert", "cleo"), ("cleo", "bert")} <= hears(swarm, cut), PATIENCE_S)
            assert not any("founder" in pair for pair in hears(swarm, cut + 1))
            say("each side goes on")
            network.heal(0)
            healed = time.time()
            whole = evidence.pairs(swarm.nodes)
            assert until(lambda: whole <= hears(swarm, healed), HEALED_S, swarm.watch), hears(swarm, healed)
            say(f"whole again after {time.time() - healed:.1f} s")
            end(swarm)
            say("ended")
