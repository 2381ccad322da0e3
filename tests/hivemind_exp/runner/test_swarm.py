"""Real nodes in separate processes train together over the real network code, on loopback."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.bundle import Bundle
from hivemind_exp.peers.records import FILE_NAME, PeerRecord, read_peers
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.identity import Identity, claim
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm_settings import SwarmConfig
from tests.support.fake_api.ask import Messages
from tests.support.fake_api.server import api_server
from tests.support.nodes import ChanceRewards, Events
from tests.support.patience import Patience
from tests.support.peers import shared_group
from tests.support.swarm_nodes import PATIENCE_S, events, found, peer_of, playing, settings

REFUSED = {
    "bundle: cannot be decoded",
    "bundle: names a different peer",
    "round is in the future",
    "text far too long",
    "wrong number of completions",
    "question index out of range",
}
"""Why the hostile node's bundles and groups are rejected."""


def learned_from(root: Path, swarm: str) -> set[str]:
    """Return the peers whose text had weight in one of a node's steps."""
    if not (journal := NodeFiles(root).journal).exists():
        return set()
    with closing(Journal(journal, swarm)) as opened:
        return {lesson.source for lesson in opened.contributions(10**9) if lesson.kind is Kind.PEER}


def answered(_messages: Messages, index: int) -> str:
    """Answer as a relay's engine: a different text for each choice, short enough for every node."""
    return f"r{index % 50}"


@contextmanager
def hostile_node(root: Path, rules: Charter, invitation: Invitation, victim: str) -> Iterator[str]:
    """Join the swarm and share only what no honest node shares. Yields the node's peer id."""
    root.mkdir()
    files = NodeFiles(root)
    identity = Identity.create(files.key)
    node = SwarmNode(
        identity,
        rules.id,
        key=files.key,
        directory=files.swarm,
        settings=SwarmConfig(loopback=True),
        invitation=invitation.addresses,
        emit=Events(),
    )
    node.start()
    me, group = identity.peer_id, shared_group(0, right=2)
    hostile = [
        b"\x91" * 100_000,
        zlib.compress(b"a" * 10**8),
        b"\xff" * 1_900_000,
        Bundle(rules.id, victim, 0, "answer", (group,)).pack(),
        Bundle(rules.id, me, 2**39, "answer", (group,)).pack(),
        Bundle(rules.id, me, 1, "answer", (replace(group, texts=("a" * 60_000,) * 4),)).pack(),
        Bundle(rules.id, me, 2, "answer", (shared_group(0, size=3),)).pack(),
        Bundle(rules.id, me, 3, "answer", (replace(group, index=2**30),)).pack(),
    ]
    try:
        for round_, data in enumerate(hostile):
            node.publish(data, round=round_, groups=1, step=0)
        yield me
    finally:
        node.close()


def book_of(root: Path) -> dict[str, PeerRecord]:
    return read_peers(NodeFiles(root).swarm / FILE_NAME)


@pytest.mark.swarm
def test_three_nodes_learn_from_each_other_and_a_relay_despite_a_hostile_node(tmp_path: Path) -> None:
    roots, relay = [tmp_path / name for name in ("one", "two", "three")], tmp_path / "relay"
    rules, invitation = found(roots[0])
    with ExitStack() as ends:
        server = ends.enter_context(api_server(answer=answered))
        engine = {
            "offload": {"provider": "mybox", "kind": "relay", "model": "test-model", "limits": {"usd": "unlimited"}},
            "providers": {"mybox": {"base_url": server.base_url, "free": True}},
        }
        nodes = ends.enter_context(playing({**{root: {} for root in roots}, relay: engine}, invitation))
        hostile = ends.enter_context(hostile_node(tmp_path / "hostile", rules, invitation, peer_of(roots[0])))
        patience = Patience(PATIENCE_S)
        while not patience.is_over():
            time.sleep(0.5)
            assert all(node.is_alive() for node in nodes), [events(root, "error") for root in (*roots, relay)]
            reported = [event for root in roots for event in events(root, "share")]
            refused = {why for event in reported for why in event["unused"]}
            learned = all(len(learned_from(root, rules.id)) == 3 for root in roots)
            # The peer book is written every few seconds.
            noted = all(sum(each.used > 0 for each in book_of(root).values()) == 3 for root in roots)
            if learned and noted and refused >= REFUSED:
                break
        assert refused >= REFUSED
    assert events(relay, "step") == []
    assert learned_from(relay, rules.id) == set()
    for root in roots:
        others = {peer_of(other) for other in (*roots, relay) if other != root}
        # Each peer's text had weight in this node's steps.
        assert learned_from(root, rules.id) == others
        assert NodeFiles(root).charter.read_bytes() == NodeFiles(roots[0]).charter.read_bytes()
        reported = [event for event in events(root, "rollouts") if event["source"] == "peer"]
        # I = J = 4, and no peer fills more than an eighth of the batch: at least one group.
        assert {event["count"] for event in reported} <= {4, 8, 12}
        assert all(event["groups"] == 4 and event["bytes"] > 0 for event in events(root, "share"))
        book = book_of(root)
        assert others <= set(book)
        assert all(book[peer].used > 0 and book[peer].refused == book[peer].skewed == 0 for peer in others)
        assert all(book[peer].standing.excess == 0 for peer in others)
        assert book[hostile].used == 0 < book[hostile].refused
        # A peer's claims about its model cannot be verified, but are recorded.
        assert (book[peer_of(relay)].kind, book[peer_of(relay)].label) == ("relay", "test-model")


def test_two_live_nodes_do_not_share_an_identity(tmp_path: Path) -> None:
    rules, invitation = found(tmp_path / "one")
    files = NodeFiles(tmp_path / "one")
    assert rules.id == invitation.charter
    with claim(files.claims, peer_of(tmp_path / "one")), pytest.raises(IdentityProblem):
        GRPORunner(settings(tmp_path / "one", invitation), files, Events(), make_tasks=lambda *_: ChanceRewards()).run()
