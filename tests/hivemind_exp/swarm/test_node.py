"""Nodes find each other, exchange bundles, and recover from failures. With real daemons on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.announcement import MAX_BUNDLE_BYTES
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.contacts import KnownPeers
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import Incarnation
from hivemind_exp.swarm.node import SwarmNode
from tests.support.charters import charter
from tests.support.hostile.wire import Peers, acquainted, eventually, peers_of, receive
from tests.support.processes import is_alive

pytestmark = pytest.mark.swarm


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread.LOOK_S", 0.3)
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 0.5)
    made = Peers(tmp_path)
    yield made
    made.close()


def daemons() -> list[psutil.Process]:
    """Return this process's daemons, not those that other tests have started."""
    return [child for child in psutil.Process().children() if child.name() == "p2pd"]


def daemon(node: SwarmNode) -> psutil.Process:
    """Return a node's daemon."""
    keys = [child for child in psutil.Process().children() if f"-id={node._key}" in child.cmdline()]
    assert len(keys) == 1
    return keys[0]


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
    begun = time.monotonic()
    rounds = [one.ref.round for one in receive(second, 8)]
    # Newest first, except for the bundle that is fetched at once when the peer appears.
    assert rounds[1:] == sorted(rounds[1:], reverse=True)
    assert set(rounds) == set(range(8))
    assert time.monotonic() - begun < 30  # with a pause before each, it would take 40 s


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
    assert begun.wait(15)
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
    begun = time.monotonic()
    second = peers.start("second", address)
    assert time.monotonic() - begun < 60  # it does not wait for the peer
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


def test_ports(peers: Peers) -> None:
    first = peers.start("first")
    number = int(first.addresses()[0].split("/")[4])
    with pytest.raises(SwarmError, match="cannot use port"):
        peers.start("second", port=number)
    first.close()
    assert first.addresses() == peers.start("first").addresses()
    # If another program has taken a node's port, the node takes another port.
    peers.nodes["first"].close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", number))
        other.listen()
        assert str(number) not in peers.start("first").addresses()[0]


def test_closing_leaves_no_processes_sockets_or_threads(peers: Peers) -> None:
    threads = set(threading.enumerate())
    first = peers.start("first")
    second = peers.start("second", first.addresses())
    acquainted(first, second)
    running = [daemon(node) for node in (first, second)]
    sockets = [Path(path) for node in (first, second) for path in node.overlay.sockets]  # type: ignore[union-attr]
    assert all(path.exists() for path in sockets)
    running[1].suspend()  # a daemon that does not stop when asked
    for node in (first, second):
        begun = time.monotonic()
        node.close()
        assert time.monotonic() - begun < 20  # it does not wait for a daemon that never stops
    assert not any(is_alive(process.pid) for process in running)
    assert not any(path.exists() for path in sockets)
    eventually(lambda: set(threading.enumerate()) <= threads, 2)
    second.publish(b"after", round=0, groups=1, step=1)  # no effect after close, and no error


def test_leftovers_of_a_killed_node_are_removed(peers: Peers, capfd: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.hostile.lonely", str(peers.root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    assert "/p2p/" in address
    left = psutil.Process(child.pid).children()
    for process in left:
        process.suspend()  # as if its machine were too busy for it to notice that its node is gone
    child.kill()
    child.wait()
    child.stdout.close()
    first = peers.start("first")
    assert first.addresses() == (address,)
    assert not any(is_alive(process.pid) for process in left)
    assert "leftovers" in peers.codes("first")
    assert capfd.readouterr().err == ""


def test_the_daemon_of_a_node_killed_during_startup_is_removed(peers: Peers) -> None:
    kept = peers.start("first").addresses()
    peers.nodes["first"].close()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.hostile.lonely", str(peers.root)], stdout=subprocess.DEVNULL
    )
    node = psutil.Process(child.pid)

    def daemons() -> list[psutil.Process]:
        """Return the child once it runs the daemon's program, not its parent's."""
        return [each for each in node.children() if any("=/unix" in word for word in each.cmdline())]

    eventually(daemons, 60)
    (left,) = daemons()
    left.suspend()
    child.kill()
    child.wait()
    sockets = [Path(word.partition("=/unix")[2]) for word in left.cmdline() if "=/unix" in word]
    assert sockets
    first = peers.start("first")
    # The killed node had not recorded its daemon yet. The daemon would have kept the port that the invitation names.
    assert not is_alive(left.pid)
    assert not any(socket.exists() for socket in sockets)
    assert first.addresses() == kept


def test_a_node_can_be_closed_while_it_starts(peers: Peers) -> None:
    node = peers.make("first")
    starting = threading.Thread(target=node.start)
    starting.start()
    eventually(lambda: node.loop is not None)
    node.close()
    starting.join(2)
    assert not starting.is_alive()
    assert not daemons()


def test_a_daemon_that_cannot_start_is_an_error(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread._TRIES", 1)
    node = peers.make("first")
    node._key.write_bytes(b"no key")
    with pytest.raises(SwarmError, match="cannot start hivemind's daemon p2pd"):
        node.start()
    assert not daemons()
