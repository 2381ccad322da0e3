"""What a node leaves behind when it closes, is killed or cannot start: no daemon, socket, thread or port."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from hivemind.p2p import P2P

from hivemind_exp.errors import SwarmError
from tests.support.hostile.lonely import LonelyNode
from tests.support.hostile.wire import Peers, acquainted, daemon, daemons, eventually
from tests.support.processes import is_alive

pytestmark = pytest.mark.swarm


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
        node.close()  # does not wait for a daemon that never stops
    assert not any(is_alive(process.pid) for process in running)
    assert not any(path.exists() for path in sockets)
    eventually(lambda: set(threading.enumerate()) <= threads, 2)
    second.publish(b"after", round=0, groups=1, step=1)  # no effect after close, and no error


def test_leftovers_of_a_killed_node_are_removed(peers: Peers, capfd: pytest.CaptureFixture[str]) -> None:
    child = LonelyNode(peers.root)
    address = child.stdout.readline().decode().strip()
    assert "/p2p/" in address
    left = psutil.Process(child.pid).children()
    for process in left:
        process.suspend()  # as if its machine were too busy for it to notice that its node is gone
    child.kill()
    child.wait()
    child.stdout.close()
    capfd.readouterr()  # what libraries print when the first test of a run imports them for its forks
    first = peers.start("first")
    assert first.addresses() == (address,)
    assert not any(is_alive(process.pid) for process in left)
    assert "leftovers" in peers.codes("first")
    assert capfd.readouterr().err == ""


def test_the_daemon_of_a_node_killed_during_startup_is_removed(peers: Peers) -> None:
    kept = peers.start("first").addresses()
    peers.nodes["first"].close()
    child = LonelyNode(peers.root)
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
    eventually(lambda: not starting.is_alive(), 2)
    assert not daemons()


def test_a_daemon_that_cannot_start_is_an_error(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread._TRIES", 1)
    node = peers.make("first")
    node._key.write_bytes(b"no key")
    with pytest.raises(SwarmError, match="cannot start hivemind's daemon p2pd"):
        node.start()
    assert not daemons()


def test_a_daemon_that_is_killed_while_it_starts_is_started_again(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When hivemind has read that it is ready, it waits for ever for the answer of one that has died since."""
    ask, killed = P2P._ping_daemon, list[int]()

    async def kill_and_wait(p2p: P2P, *arguments: Any, **named: Any) -> Any:
        if killed:
            return await ask(p2p, *arguments, **named)
        killed.append(p2p._child.pid)
        p2p._child.kill()
        return await asyncio.Event().wait()

    monkeypatch.setattr(P2P, "_ping_daemon", kill_and_wait)
    peers.start("first")
    assert len(killed) == 1
    assert not is_alive(killed[0])
    assert len(daemons()) == 1
