"""A member that does what no honest node does. It knows the swarm's id, and only its peers' checks restrict it.

It has a real daemon and a real identity. It sends and answers requests by hand, with any bytes that a test wants.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgpack
from hivemind.p2p import P2P, P2PContext, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PHandlerError
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer
from hivemind.utils.multiaddr import Multiaddr

from hivemind_exp.swarm.announcement import Announcement, BundleRef, shard_key, shard_of
from hivemind_exp.swarm.dht.guard import place_of
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.membership_proof import MembershipProof, ProvenRequest
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm.transfer.peer_transfers import NAME
from tests.support.hostile.wire import SWARM

T = TypeVar("T")
Answer = Callable[[Any, P2PContext], Any]
Stream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """One hostile peer with its own thread. A context manager."""

    def __init__(self, directory: Path, *, swarm: str = SWARM) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.key = directory / "identity.key"
        self.identity = Identity.create(self.key)
        self.swarm = swarm
        self.access = MembershipProof(swarm, self.identity.peer_id)
        self.found: Callable[[dht_pb2.FindRequest], list[dht_pb2.FindResult]] | None = None
        """Its answer to "find" requests. None: it answers that it has nothing."""
        self.stream: Stream | None = None
        """How it serves a stream that requests a bundle. None: it hangs up."""
        self.streams = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Hostile:
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self.p2p._visible_maddrs)

    # --- what it sends

    def connect(self, node: SwarmNode) -> None:
        where = [Multiaddr(address.rpartition("/p2p/")[0]) for address in node.addresses()]
        self.run(self.p2p._client.connect(PeerID.from_base58(node.peer_id), where))

    def ask(self, node: SwarmNode, name: str, request: Any, *, sign: bool = True) -> Any:
        """Send a node a "ping", "store" or "find". Raises hivemind's P2PHandlerError if the node refuses."""
        return self.run(self._ask(node.peer_id, name, request, sign=sign))

    def refused(self, node: SwarmNode, name: str, request: Any) -> bool:
        try:
            self.ask(node, name, request)
        except P2PHandlerError:
            return True
        return False

    def ping(self, node: SwarmNode) -> None:
        """Become a neighbor of a node."""
        self.connect(node)
        self.ask(node, "ping", dht_pb2.PingRequest(peer=self.info))

    def store(self, node: SwarmNode, key: bytes, subkey: bytes, value: bytes, expires: float, **fields: Any) -> bool:
        """Ask a node to store any value. Returns whether it answers that it did."""
        request = dht_pb2.StoreRequest(
            keys=[key],
            subkeys=[subkey],
            values=[value],
            expiration_time=[expires],
            in_cache=[fields.get("cache", False)],
        )
        return bool(self.ask(node, "store", request).store_ok[0])

    def announce(self, node: SwarmNode, record: bytes, announcement: Announcement, **changes: Any) -> bool:
        """Store a record in its proper place, except for ``changes`` (key, subkey, value, expires)."""
        place = {
            "key": shard_key(self.swarm, shard_of(announcement.peer)),
            "subkey": MSGPackSerializer.dumps(announcement.peer),
            "value": msgpack.packb(record),
            "expires": announcement.expires,
            **changes,
        }
        return self.store(node, **place)

    def record(self, *bundles: BundleRef, age: float = 0.0, **fields: Any) -> tuple[bytes, Announcement]:
        """Return its own record, dated ``age`` seconds ago."""
        seq = int((time.time() - age) * 1000)
        values = {"round": 1, "step": 1, "addresses": self.addresses, **fields}
        announcement = Announcement(self.peer_id, seq, bundles=bundles, **values)
        return announcement.pack(self.identity, self.swarm), announcement

    # --- what it answers

    async def _open(self) -> None:
        self.p2p = await P2P.create(
            host_maddrs=["/ip4/127.0.0.1/tcp/0"],
            identity_path=str(self.key),
            check_if_identity_free=False,
            nat_port_map=False,
            auto_nat=False,
            use_relay=False,
        )
        self.info = dht_pb2.NodeInfo(node_id=place_of(self.swarm, self.p2p.peer_id.to_bytes()).to_bytes())
        for name, handler, kind in (
            ("ping", self._ping, dht_pb2.PingRequest),
            ("store", self._store, dht_pb2.StoreRequest),
            ("find", self._find, dht_pb2.FindRequest),
        ):
            await self.p2p.add_protobuf_handler(f"DHTProtocol.rpc_{name}", handler, kind)
        await self.p2p.add_binary_stream_handler(NAME, self._serve)

    async def _close(self) -> None:
        await self.p2p.shutdown()
        self.p2p._child._transport.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, peer: str, name: str, request: Any, *, sign: bool) -> Any:
        auth = request.auth
        auth.nonce, auth.time, auth.signature = self.access.nonce(), time.time(), b""
        if sign:
            asked = ProvenRequest(name, auth.nonce, auth.time, request.SerializeToString())
            auth.signature = self.access.ask(peer, asked)
        kind = {"ping": dht_pb2.PingResponse, "store": dht_pb2.StoreResponse, "find": dht_pb2.FindResponse}[name]
        call = self.p2p.call_protobuf_handler(PeerID.from_base58(peer), f"DHTProtocol.rpc_{name}", request, kind)
        return await asyncio.wait_for(call, 10)

    def _signed(self, name: str, request: Any, context: P2PContext, response: Any) -> Any:
        response.auth.nonce = request.auth.nonce
        caller = str(context.remote_id)
        proof = self.access.answer(caller, name, request.auth.nonce, response.SerializeToString())
        response.auth.signature = proof
        return response

    async def _ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        response = dht_pb2.PingResponse(peer=self.info, dht_time=time.time(), available=True)
        return self._signed("ping", request, context, response)

    async def _store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        response = dht_pb2.StoreResponse(store_ok=[True] * len(request.keys), peer=self.info)
        return self._signed("store", request, context, response)

    async def _find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        nothing = [dht_pb2.FindResult(type=dht_pb2.NOT_FOUND) for _ in request.keys]
        results = nothing if self.found is None else self.found(request)
        return self._signed("find", request, context, dht_pb2.FindResponse(results=results, peer=self.info))

    async def _serve(self, _info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams += 1
        try:
            if self.stream is not None:
                await self.stream(reader, writer)
        finally:
            writer.close()


def dictionary(*entries: tuple[str, bytes, float], most: object = None) -> bytes:
    """Return a dictionary as hivemind sends it. ``most``: the limit of entries that it claims."""
    latest = max(expires for _, _, expires in entries)
    inner = msgpack.packb([math.inf if most is None else most, latest, [list(entry) for entry in entries]])
    return bytes(msgpack.packb(msgpack.ExtType(0x50, inner)))


def ref_of(content: bytes, *, round: int = 1, size: int | None = None) -> BundleRef:
    return BundleRef(round, 0, hashlib.sha256(content).digest(), len(content) if size is None else size, 1)
