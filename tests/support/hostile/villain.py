"""A hostile member with its own daemon and identity, which plays one attack against a swarm of honest nodes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, P2PDaemonError, P2PHandlerError
from hivemind.proto import dht_pb2

from hivemind_exp.peers.bundle import Bundle, SharedGroup
from hivemind_exp.swarm.announcement import (
    MAX_BUNDLES,
    Announcement,
    BundleRef,
    shard_key,
    shard_of,
)
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.dht.guard import StrictSerializer
from hivemind_exp.swarm.transfer.peer_transfers import _ASK, _HEAD, NAME, ProvenRequest, TransferKind
from hivemind_exp.tasks.base import Question, Tasks
from tests.support.hostile.arena import Honest
from tests.support.hostile.hostile_node import Hostile
from tests.support.hostile.records import unpack

GROUPS = 4
REFUSALS = (P2PHandlerError, P2PDaemonError, ControlFailure, TimeoutError, OSError, EOFError)
"""The errors with which a node refuses."""


@dataclass(slots=True)
class Field:
    """The attacked nodes, and counts of what happened."""

    nodes: Sequence[Honest]
    rules: Charter
    tasks: Tasks
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By attack and event: "refused" or "taken" requests, "served" bundles, "played" turns."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def questions(self, round_: int) -> list[Question]:
        with self.lock:
            return self.tasks.questions("train", round_, GROUPS)


class Villain(Hostile):
    """A hostile member that plays one attack."""

    def __init__(self, directory: Path, where: Field, attack: str) -> None:
        super().__init__(directory, swarm=where.rules.id)
        self.field, self.attack = where, attack
        self.round = 0
        """The round of its next offer: one for which it has offered nothing yet."""
        self.served: dict[bytes, tuple[str, int, bytes]] = {}
        """By hash: attack, announced size and bytes to send."""
        self.pace: Callable[[asyncio.StreamWriter], Any] | None = None
        """If set, serves streams instead of the requested bundle."""
        self.refs: list[BundleRef] = []
        self.stream = self._answer
        self._seq = 0

    @property
    def trap(self) -> Path:
        """A file that exists if code in its answers was ever run."""
        return Path("/tmp") / self.peer_id[-7:]

    def count(self, what: str, times: int = 1) -> None:
        self.field.told[self.attack, what] += times

    def meet(self) -> bool:
        """Become a neighbor of all honest nodes. Returns whether all answered."""
        try:
            for node in self.field.nodes:
                self.ping(node)  # type: ignore[arg-type]
        except REFUSALS:
            return False
        return True

    def try_to_store(
        self, record: bytes, word: Announcement, nodes: Sequence[Honest] | None = None, **changes: Any
    ) -> None:
        """Ask each honest node, or ``nodes``, to store this record, and count the answers."""
        for node in self.field.nodes if nodes is None else nodes:
            try:
                taken = self.announce(node, record, word, **changes)  # type: ignore[arg-type]
            except REFUSALS:
                taken = False
            self.count("taken" if taken else "refused")

    def say(self) -> None:
        """Announce the newest bundles to all nodes, like an honest node."""
        self._seq = max(int(time.time() * 1000), self._seq + 1000)
        word = Announcement(
            self.peer_id, self._seq, 1, 1, label="policy", addresses=self.addresses, bundles=tuple(self.refs)
        )
        record = word.pack(self.identity, self.swarm)
        for node in self.field.nodes:
            try:
                self.announce(node, record, word)  # type: ignore[arg-type]
            except REFUSALS:
                self.count("not heard")

    def offer(self, data: bytes, *, round_: int = 0, size: int | None = None) -> None:
        """Announce a bundle and serve it. ``size``: the announced size."""
        ref = BundleRef(round_, 0, hashlib.sha256(data).digest(), min(size or len(data), 2 * 2**20), 1)
        self.served[ref.sha256] = (self.attack, size or len(data), data)
        self.refs = [*(each for each in self.refs if each.sha256 != ref.sha256), ref][-MAX_BUNDLES:]
        self.say()

    def offer_groups(self, round_: int, groups: Sequence[SharedGroup]) -> None:
        self.offer(Bundle(self.swarm, self.peer_id, round_, "answer", tuple(groups)).pack(), round_=round_)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, sha256, *_ = _ASK.unpack(await reader.readexactly(_ASK.size))
        if self.pace is not None:
            await self.pace(writer)
            return
        attack, size, data = self.served.get(sha256, (self.attack, 0, b""))
        writer.write(_HEAD.pack(0 if data else 1, size) + data)
        await writer.drain()
        self.field.told[attack, "served"] += 1

    async def take(self, node: Honest, sha256: bytes) -> bytes:
        """Fetch a bundle from an honest node, like a member."""
        _, reader, writer = await self.p2p.call_binary_stream_handler(PeerID.from_base58(node.peer_id), NAME)
        asked = ProvenRequest(NAME, self.access.nonce(), time.time(), bytes((TransferKind.BUNDLE,)) + sha256)
        proof = self.access.ask(node.peer_id, asked)
        writer.write(_ASK.pack(TransferKind.BUNDLE, sha256, asked.nonce, asked.at, proof))
        try:
            async with asyncio.timeout(5):
                _, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                return await reader.readexactly(size)
        finally:
            writer.close()

    def overhear(self, node: Honest, of: Honest) -> tuple[bytes, Announcement] | None:
        """Return the newest record of the honest node ``of`` that ``node`` has."""
        key = shard_key(self.swarm, shard_of(of.peer_id))
        try:
            found = self.ask(node, "find", dht_pb2.FindRequest(keys=[key], peer=self.info))  # type: ignore[arg-type]
            heard = StrictSerializer.loads(found.results[0].value)
        except (*REFUSALS, ValueError):
            return None
        item = heard.get(of.peer_id) if hasattr(heard, "get") else None
        if item is None:
            return None
        record = msgpack.unpackb(item.value)
        return record, unpack(record, self.swarm, time.time())
