"""Real nodes of a swarm on this machine, for tests of the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.swarm.announcement import Announcement
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import UNCOUNTED, Incarnation
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm.transfer.bundle_store import Received
from hivemind_exp.swarm_settings import SwarmConfig
from tests.support.patience import Patience

SWARM = "5a" * 32


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """What a node knows about a peer."""

    peer: str
    announcement: Announcement | None
    """Its newest announcement. None: it has answered, but announced nothing yet."""
    seen: float
    """When it was last heard from, Unix seconds."""
    reachable: bool | None
    """Whether it answered when last asked. None: it was never asked."""


def peers_of(node: SwarmNode) -> list[PeerSeen]:
    """Return the peers that a node has recently heard from, and announced ones, the latest first."""
    words, known = node.announced(), node.known_peers
    found = [PeerSeen(peer, words.get(peer), at, known[peer].reachable) for peer, at in node.last_seen().items()]
    return sorted(found, key=lambda peer: -peer.seen)


def eventually(true: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until ``true()`` is true; fail if that takes longer than ``seconds`` (``Patience``)."""
    patience = Patience(seconds)
    while not true():
        assert not patience.is_over(), "it never came true"
        time.sleep(0.02)


class Peers:
    """Creates nodes below one directory and closes them. Each node's events are in ``events[name]``."""

    def __init__(self, root: Path, swarm: str = SWARM) -> None:
        self.root, self.swarm = root, swarm
        self.nodes: dict[str, SwarmNode] = {}
        self.events: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.superseded: dict[str, list[Incarnation]] = {}
        """The newer copies that each node has noticed."""

    def make(
        self,
        name: str,
        invitation: Iterable[str] = (),
        *,
        swarm: str | None = None,
        like: str | None = None,
        port: int = 0,
        label: str = "policy",
        incarnation: Incarnation = UNCOUNTED,
    ) -> SwarmNode:
        """Create a node without starting it. ``like``: a node whose key it copies."""
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        key = directory / "identity.key"
        if like is not None:
            key.write_bytes((self.root / like / "identity.key").read_bytes())
            key.chmod(0o600)
        elif not key.exists():
            Identity.create(key)
        events = self.events.setdefault(name, [])
        node = SwarmNode(
            Identity.load(key),
            swarm or self.swarm,
            key=key,
            directory=directory / "swarm",
            settings=SwarmConfig(loopback=True, port=port),
            invitation=invitation,
            emit=lambda event: events.append((event.event_name(), event.model_dump())),
            label=label,
            incarnation=incarnation,
            on_superseded=self.superseded.setdefault(name, []).append,
        )
        self.nodes[name] = node
        return node

    def start(self, name: str, invitation: Iterable[str] = (), **options: Any) -> SwarmNode:
        node = self.make(name, invitation, **options)
        node.start()
        return node

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

    def codes(self, name: str) -> list[str]:
        """Return the codes of a node's notes, warnings and errors."""
        return [fields["code"] for event, fields in self.events[name] if event in ("note", "warning", "error")]


def receive(node: SwarmNode, count: int, seconds: float = 15.0) -> list[Received]:
    """Wait until ``count`` bundles have arrived."""
    got: list[Received] = []

    def enough() -> bool:
        got.extend(node.take())
        return len(got) >= count

    eventually(enough, seconds)
    return got


def acquainted(*nodes: SwarmNode, seconds: float = 15.0) -> None:
    """Wait until each of these nodes has received an announcement of every other."""
    for node in nodes:
        others = {other.peer_id for other in nodes} - {node.peer_id}
        eventually(
            lambda node=node, others=others: others <= {p.peer for p in peers_of(node) if p.announcement}, seconds
        )


def daemons() -> list[psutil.Process]:
    """Return this process's daemons, not those that other tests have started."""
    return [child for child in psutil.Process().children() if child.name() == "p2pd"]


def daemon(node: SwarmNode) -> psutil.Process:
    """Return a node's daemon."""
    keys = [child for child in psutil.Process().children() if f"-id={node._key}" in child.cmdline()]
    assert len(keys) == 1
    return keys[0]
