"""Nodes find each other, exchange bundles, and recover from failures. With real daemons on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.announcement import MAX_BUNDLE_BYTES
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.contacts import KnownPeers
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import Incarnation
from tests.support.charters import charter
from tests.support.hostile.wire import Peers, acquainted, daemon, daemons, eventually, peers_of, receive
from tests.support.patience import Patience
from tests.support.processes import is_alive

pytestmark = pytest.mark.swarm


def test_every_peer_receives_each_bundle_once(peers: Peers) -> None:
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    third = peers.start("third", first.addresses())
    bundles = {node.peer_id: os.urandom(50_000) for node in (first, second, third)}
    for node in (first, second, third):
        ref = node.publish(bundles[node.peer_id], round=4, groups=3, step=5, progress=250)
        assert ref.size == 50_000
    for node in (first, second, third):
        got = receive(node, 2)
        assert {one.peer: one.data for one in got} == {
            peer: data for peer, data in bundles.items() if peer != node.peer_id
        }
    time.sleep(0.5)
    assert not first.take()
    seen = {peer.peer: peer for peer in peers_of(third)}
    word = seen[second.peer_id].announcement
    assert word is not None
    assert (word.round, word.step, word.progress, word.label) == (4, 5, 250, "policy")
    assert abs(seen[second.peer_id].seen - time.time()) < 20


def test_two_nodes_that_start_together_meet(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon never dials a closed port: after a failed dial, libp2p would refuse the next ones for seconds."""
    dialed, connect = [], Overlay.connect

    async def dial(self: Overlay, peer: str, addresses: Iterable[str]) -> bool:
        dialed.append(await connect(self, peer, addresses))
        return dialed[-1]

    monkeypatch.setattr(Overlay, "connect", dial)
    kept = peers.start("first").addresses()
    peers.nodes["first"].close()
    second = peers.start("second", kept)
    tries = second.known_peers
    eventually(lambda: tries[peers.nodes["first"].peer_id].failures >= 3)
    assert dialed == []
    first = peers.start("first")
    acquainted(first, second)
    assert all(dialed)
    assert first.peer_id in second.announced()


def test_keepers_that_hide_records_cannot_separate_neighbors(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(_self: Overlay, shards: Iterable[int]) -> dict[int, list[Any]]:
        """Stand in for keepers that accept records and return none."""
        return {shard: [] for shard in shards}

    monkeypatch.setattr(Overlay, "_keepers", nobody)
    monkeypatch.setattr("hivemind_exp.swarm.contacts.QUIET_S", 0.5)
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    for round_ in range(2):
        first.publish(b"said %d" % round_, round=round_, groups=1, step=1)
        second.publish(b"heard %d" % round_, round=round_, groups=1, step=1)
        assert receive(second, 1)[0].data == b"said %d" % round_
        assert receive(first, 1)[0].data == b"heard %d" % round_


def test_bundles_over_the_size_limit_are_refused(peers: Peers) -> None:
    first = peers.start("first", label="\x1b[31m" + "long" * 50)
    second = peers.start("second", first.addresses())
    first.publish(bytes(MAX_BUNDLE_BYTES), round=0, groups=1, step=1)
    assert receive(second, 1)[0].ref.size == MAX_BUNDLE_BYTES
    with pytest.raises(ValueError, match="a bundle must have 1 to"):
        first.publish(bytes(MAX_BUNDLE_BYTES + 1), round=1, groups=1, step=2)
    with pytest.raises(ValueError, match="a bundle must have 1 to"):
        first.publish(b"", round=1, groups=1, step=2)
    for what in ({"groups": 5000}, {"stage": 16}, {"progress": 1001}, {"round": -1}):
        with pytest.raises(ValueError, match=r"cannot announce a bundle|invalid announcement: invalid"):
            first.publish(b"x", **{"round": 1, "groups": 1, "step": 2, **what})
    label = ("[31m" + "long" * 50)[:64]
    eventually(lambda: [peer.announcement.label for peer in peers_of(second) if peer.announcement] == [label])


def test_missed_bundles_are_fetched_without_pauses(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread.LOOK_S", 5.0)
    first = peers.start("first")
    for number in range(8):
        first.publish(bytes([number]) * 100, round=number, groups=1, step=number)
    second = peers.start("second", first.addresses())
    limit = Patience(30)
    rounds = [one.ref.round for one in receive(second, 8)]
    # Newest first, except for the bundle that is fetched at once when the peer appears.
    assert rounds[1:] == sorted(rounds[1:], reverse=True)
    assert set(rounds) == set(range(8))
    assert not limit.is_over()  # with a pause before each, it would take 40 s


def test_a_bundle_is_fetched_from_others_when_its_author_is_gone(peers: Peers) -> None:
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    acquainted(first, second)
    first.publish(b"the last word", round=0, groups=1, step=1)
    receive(second, 1)
    first.close()
    third = peers.start("third", second.addresses())
    assert receive(third, 1)[0].data == b"the last word"


def test_a_charter_is_fetched_and_checked(peers: Peers) -> None:
    founder = Identity.generate()
    rules = charter(founder=founder.peer_id)
    peers.swarm = rules.id
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    with pytest.raises(SwarmError, match=r"cannot fetch the swarm's charter from its peers .*does not have it"):
        second.fetch_charter(timeout=1.5)
    first.charter = b"something else"
    with pytest.raises(SwarmError, match="invalid charter: its size of 14 bytes is out of bounds"):
        second.fetch_charter(timeout=1.5)
    first.charter = rules.seal(founder)
    assert Charter.open(second.fetch_charter(), rules.id) == rules


def test_no_bundle_is_lost_when_a_daemon_is_killed(peers: Peers) -> None:
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    acquainted(first, second)
    addresses, seen = first.addresses(), first.overlay
    daemon(first).send_signal(signal.SIGKILL)
    first.publish(b"meanwhile", round=7, groups=1, step=8)
    assert receive(second, 1)[0].data == b"meanwhile"
    assert first.overlay is not seen
    assert first.addresses() == addresses
    assert "daemon_died" in peers.codes("first")
    second.publish(b"an answer", round=7, groups=1, step=8)
    assert receive(first, 1)[0].data == b"an answer"


def test_a_stuck_daemon_is_replaced(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread._WATCHDOG_S", 0.1)
    monkeypatch.setattr("hivemind_exp.swarm.dht.overlay.CONNECT_S", 0.3)
    first = peers.start("first")
    before, seen = daemon(first), first.overlay
    before.suspend()
    eventually(lambda: not is_alive(before.pid))
    eventually(lambda: first.overlay is not seen)
    assert daemon(first).pid != before.pid


def test_a_swarm_survives_the_loss_of_its_bootstrap_node(peers: Peers) -> None:
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    third = peers.start("third", first.addresses())
    acquainted(first, second, third)
    first.close()
    second.publish(b"without it", round=1, groups=1, step=1)
    assert receive(third, 1)[0].data == b"without it"
    # The bootstrap node returns alone, and knows only the peers on its disk.
    again = peers.start("first")
    acquainted(again, second, third)
    again.publish(b"back", round=1, groups=1, step=1)
    assert receive(second, 1)[0].data == b"back"


def test_a_killed_daemon_is_restarted_even_if_a_cancellation_is_lost(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = peers.start("first")
    keep, begun = first.contacts.keep, threading.Event()

    async def deaf(overlay: Overlay) -> None:
        # Like wait_for before Python 3.12, when its awaitable is done at the same moment.
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        first.contacts.keep = keep  # type: ignore[method-assign]

    first.contacts.keep = deaf  # type: ignore[method-assign]
    eventually(begun.is_set)
    daemon(first).kill()
    eventually(lambda: "daemon_died" in peers.codes("first"))
    eventually(lambda: first.addresses() and daemons())


def test_a_new_peer_is_saved_at_once(peers: Peers) -> None:
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    # It is saved now, not on close: a node that is killed in the next moment must know it, too.
    eventually(lambda: [peer for peer, _ in KnownPeers(first._directory / "known-peers.json").items()])
    known = KnownPeers(first._directory / "known-peers.json")
    assert [peer for peer, _ in known.items()] == [second.peer_id]
    assert known[second.peer_id].addresses


def test_a_peer_that_was_cut_off_is_asked_again_at_once(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 1000.0)
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    acquainted(first, second)
    eventually(lambda: first.known_peers[second.peer_id].first)
    with monkeypatch.context() as cut:

        async def nowhere(*_: object) -> bool:
            return False

        cut.setattr(first.overlay, "connect", nowhere)
        second.publish(b"unheard", round=1, groups=1, step=1)
        eventually(lambda: first.fetcher.failures)
    assert receive(first, 1)[0].data == b"unheard"


def test_a_node_starts_alone_with_a_warning_until_a_peer_answers(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.contacts.INVITED_S", 1.0)
    first = peers.start("first")
    address = first.addresses()
    first.close()
    limit = Patience(60)
    second = peers.start("second", address)
    assert not limit.is_over()  # it does not wait for the peer
    assert peers.codes("second") == ["swarm_alone"]
    second.publish(b"early", round=0, groups=1, step=1)
    again = peers.start("first")
    assert again.addresses() == address
    again.contacts._invited.clear()
    assert receive(again, 1, 40)[0].data == b"early"


def test_a_peer_that_stopped_before_this_run_is_not_in_touch(peers: Peers) -> None:
    first = peers.start("first")
    address = first.addresses()
    second = peers.start("second", address)
    acquainted(first, second)
    eventually(lambda: second.known_peers[first.peer_id].answered)
    first.close()
    second.close()
    peers.events["second"].clear()
    again = peers.start("second", address)
    eventually(lambda: "peers" in [event for event, _ in peers.events["second"]])
    assert again.last_seen()[first.peer_id] > time.time() - 60  # seconds ago
    assert peers.codes("second") == ["swarm_alone"]
    assert [fields["peers"] for event, fields in peers.events["second"] if event == "peers"] == [0]
    peers.start("first")
    eventually(lambda: [fields["peers"] for event, fields in peers.events["second"] if event == "peers"] == [0, 1], 40)


@pytest.mark.parametrize("restored", [True, False])
def test_of_two_copies_of_a_node_the_older_one_stops(restored: bool, peers: Peers) -> None:
    old, new = Incarnation(1000, 5000), Incarnation(2000 if restored else 1000, 4000 if restored else 6000)
    first = peers.start("first", incarnation=old)
    second = peers.start("second", first.addresses())
    acquainted(first, second)
    peers.start("copy", second.addresses(), like="first", incarnation=new)
    eventually(lambda: peers.superseded["first"], 20)
    assert set(peers.superseded["first"]) == {new}
    assert peers.superseded["copy"] == peers.superseded["second"] == []
    # The old copy starts again, later than the new one: it is still the one that stops.
    first.close()
    peers.superseded["first"].clear()
    peers.start("first", second.addresses(), incarnation=old)
    eventually(lambda: peers.superseded["first"], 20)
    eventually(lambda: "identity_elsewhere" in peers.codes("copy"), 20)
    assert peers.superseded["copy"] == []
    assert "identity_elsewhere" not in peers.codes("second")
