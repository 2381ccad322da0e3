"""Checks between hivemind's DHT and its peers, in both directions.

Incoming requests: only members may make them, within limits on their rate and size, and a peer enters the routing table
only under the DHT id derived from its peer id. Answers to this node's requests: only those of members are accepted, and
invalid parts are removed.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
from hivemind.dht import DHTID
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer

from hivemind_exp.swarm.announcement import LIFETIME_S, SKEW_S, AnnouncementBook
from hivemind_exp.swarm.clock_skew import ClockSkews
from hivemind_exp.swarm.membership_proof import PING, MembershipProof, ProvenRequest
from hivemind_exp.swarm.token_bucket import PeerBuckets, TokenBucket

MAX_ENTRIES = 4096
MAX_KEYS = 4
"""Largest number of dictionaries requested at once: together they must fit into one message."""
MAX_STORES = 64
BUCKET_SIZE = 20
"""Peers in a bucket of the routing table (Kademlia's k)."""
_DICTIONARY = 0x50
"""hivemind's extension type of a dictionary."""
_PACE = (50.0, 200.0)
"""Requests of one peer: per second, and at once."""
_AT_ONCE = 256
"""Largest number of requests being answered at once."""


class NotAMember(ValueError):
    """A peer is not a member, makes too many requests, or sent something invalid."""


def _need(right: bool, what: str) -> None:
    if not right:
        raise NotAMember(what)


class StrictSerializer:
    """Replaces hivemind's ``MSGPackSerializer``."""

    @staticmethod
    def dumps(value: object) -> bytes:
        return bytes(MSGPackSerializer.dumps(value))

    @staticmethod
    def loads(content: bytes) -> Any:
        """Return a dictionary, or a plain value. Raises ValueError for everything else."""
        try:
            outer = msgpack.unpackb(content, raw=False, use_list=True)
            if not isinstance(outer, msgpack.ExtType):
                return outer
            _need(outer.code == _DICTIONARY, "an extension type that is not a dictionary")
            return _dictionary(msgpack.unpackb(outer.data, raw=False, use_list=True))
        except (msgpack.UnpackException, TypeError, RecursionError) as error:
            raise ValueError("cannot be decoded") from error


def _dictionary(inner: Any) -> DictionaryDHTValue:
    _need(isinstance(inner, list) and len(inner) == 3 and isinstance(inner[2], list), "invalid dictionary shape")
    _need(len(inner[2]) <= MAX_ENTRIES, "dictionary too long")
    with DictionaryDHTValue().freeze() as dictionary:
        for item in inner[2]:
            _need(isinstance(item, list) and len(item) == 3, "invalid entry shape")
            key, value, expires = item
            right = isinstance(key, str) and isinstance(value, bytes) and isinstance(expires, float)
            _need(right, "invalid entry types")
            _need(math.isfinite(expires), "invalid entry expiry")
            dictionary.store(key, value, expires)
    return dictionary


class AnnouncementValidator(RecordValidatorBase):  # type: ignore[misc]
    """Accepts only announcements that ``AnnouncementBook.judge`` accepts. Never raises, never blocks."""

    def __init__(self, book: AnnouncementBook) -> None:
        self._book = book

    def validate(self, record: DHTRecord) -> bool:
        return self._book.judge(record.key, record.subkey, record.value, record.expiration_time)


def place_of(swarm: str, peer: bytes) -> DHTID:
    """Return a peer's DHT id. It is derived from the peer id, so that no peer can have two, or choose one."""
    return DHTID(int.from_bytes(hashlib.sha1(bytes.fromhex(swarm) + peer, usedforsecurity=False).digest(), "big"))


@dataclass(eq=False)
class Guard:
    """Answers peers' requests to the DHT."""

    protocol: DHTProtocol
    swarm: str
    access: MembershipProof
    book: AnnouncementBook
    on_news: Callable[[], None]

    def __post_init__(self) -> None:
        self._paces = PeerBuckets(*_PACE)
        self._newcomers = TokenBucket(2, 120)
        self._busy = 0

    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        return await self._answer(PING, request, context, self.protocol.rpc_ping)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        return await self._answer("store", request, context, self._store)

    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        return await self._answer("find", request, context, self._find)

    async def _answer(self, name: str, request: Any, context: P2PContext, work: Callable[..., Any]) -> Any:
        peer = context.remote_id
        _need(self._busy < _AT_ONCE and self._paces.take(str(peer)), "too many requests")
        auth = request.auth
        proof, auth.signature = auth.signature, b""
        asked = ProvenRequest(name, auth.nonce, auth.time, request.SerializeToString())
        _need(self.access.may_ask(str(peer), asked, proof), "not a member of this swarm")
        if not self.access.is_recent(auth.time):
            request.ClearField("peer")  # its other requests would be refused
        self._check_place(request, peer)
        self._busy += 1
        try:
            response = await work(request, context)
        finally:
            self._busy -= 1
        response.auth.nonce = auth.nonce
        response.auth.signature = self.access.answer(str(peer), name, auth.nonce, response.SerializeToString())
        return response

    def _check_place(self, request: Any, peer: PeerID) -> None:
        """Reject a caller that claims a wrong DHT id.

        If too many callers are new, remove the claim, so that the caller does not enter the routing table.
        """
        claimed = request.peer.node_id
        if not claimed:
            return
        place = place_of(self.swarm, peer.to_bytes())
        _need(claimed == place.to_bytes(), "claims another peer's DHT id")
        if place not in self.protocol.routing_table and not self._newcomers.take():
            request.ClearField("peer")

    async def _find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        _need(len(request.keys) <= MAX_KEYS, "too many keys")
        return await self.protocol.rpc_find(request, context)

    async def _store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        columns = (request.keys, request.subkeys, request.values, request.expiration_time, request.in_cache)
        _need(len({len(column) for column in columns}) == 1 and len(request.keys) <= MAX_STORES, "invalid store shape")
        if request.peer.node_id:
            ping = dht_pb2.PingRequest(peer=request.peer)
            asyncio.create_task(self.protocol.rpc_ping(ping, context))  # noqa: RUF006 - as hivemind does
        response = dht_pb2.StoreResponse(peer=self.protocol.node_info)
        for key, subkey, value, expires, in_cache in zip(*columns, strict=True):
            # Refuse cached values: a peer could hide the dictionary behind one.
            response.store_ok.append(not in_cache and self._take(key, subkey, value, expires))
        self.on_news()
        return response

    def _take(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> bool:
        if subkey != DHTProtocol.IS_DICTIONARY:
            return self.keep(key, subkey, value, expires)
        try:
            dictionary = StrictSerializer.loads(value)
        except ValueError:
            return False
        if not isinstance(dictionary, DictionaryDHTValue):
            return False
        entries = [(StrictSerializer.dumps(peer), item) for peer, item in dictionary.data.items()]
        kept = [self.keep(key, peer, item.value, item.expiration_time) for peer, item in entries]
        return all(kept)

    def keep(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> bool:
        """Store a record in this node's part of the DHT, if it is valid. Returns whether it is stored now."""
        if not self.book.judge(key, subkey, value, expires):
            return False
        place, peer = DHTID.from_bytes(key), subkey[2:].decode()
        stored = self.protocol.storage.get(place)
        if stored is not None and isinstance(stored.value, DictionaryDHTValue):
            entry = stored.value.get(peer)
            # Skip repeated records: hivemind would keep a trace of each store until it expires.
            if entry is not None and entry.expiration_time > time.time() + LIFETIME_S + SKEW_S:
                del stored.value[peer]  # this node's own, from before its clock was set back
            elif entry is not None and entry.expiration_time >= expires:
                return bool(entry.expiration_time == expires)
        return bool(self.protocol.storage.store_subkey(place, peer, value, expires))


@dataclass(eq=False)
class Caller:
    """Makes requests to one peer. Replaces hivemind's stub."""

    stub: Any
    peer: PeerID
    swarm: str
    access: MembershipProof
    skews: ClockSkews

    async def rpc_ping(self, request: dht_pb2.PingRequest, timeout: float | None = None) -> dht_pb2.PingResponse:
        """Ping the peer, and compare its clock with this machine's. Raises if all other requests would be refused."""
        begun = time.time()
        response = await self._ask(PING, request, timeout)
        self.skews.measure(str(self.peer), response.dht_time, begun)
        _need(self.access.is_recent(response.dht_time), "its clock differs too much")
        return response

    async def rpc_store(self, request: dht_pb2.StoreRequest, timeout: float | None = None) -> dht_pb2.StoreResponse:
        response = await self._ask("store", request, timeout)
        _need(len(response.store_ok) == len(request.keys), "invalid answer length")
        return response

    async def rpc_find(self, request: dht_pb2.FindRequest, timeout: float | None = None) -> dht_pb2.FindResponse:
        response = await self._ask("find", request, timeout)
        _need(len(response.results) == len(request.keys), "invalid answer length")
        for result in response.results:
            self._clean(result)
        return response

    async def _ask(self, name: str, request: Any, timeout: float | None) -> Any:
        peer = str(self.peer)
        auth = request.auth
        auth.nonce, auth.time, auth.signature = self.access.nonce(), time.time(), b""
        auth.signature = self.access.ask(peer, ProvenRequest(name, auth.nonce, auth.time, request.SerializeToString()))
        response = await getattr(self.stub, f"rpc_{name}")(request, timeout=timeout)
        proof, response.auth.signature = response.auth.signature, b""
        right = self.access.may_answer(peer, name, auth.nonce, response.SerializeToString(), proof)
        _need(right, "answer does not come from a member")
        own = place_of(self.swarm, self.peer.to_bytes()).to_bytes()
        _need(response.peer.node_id in (b"", own), "claims another peer's DHT id")
        return response

    def _clean(self, result: dht_pb2.FindResult) -> None:
        """Keep only valid parts: other peers with their right DHT ids, dictionaries, and possible expiry times."""
        near = [
            (place, peer)
            for place, peer in zip(result.nearest_node_ids, result.nearest_peer_ids, strict=False)
            if len(peer) < 64 and place_of(self.swarm, peer).to_bytes() == place
        ][:BUCKET_SIZE]
        del result.nearest_node_ids[:], result.nearest_peer_ids[:]
        result.nearest_node_ids.extend(place for place, _ in near)
        result.nearest_peer_ids.extend(peer for _, peer in near)
        if result.type != dht_pb2.FOUND_DICTIONARY:
            result.type, result.value = dht_pb2.NOT_FOUND, b""
        latest = time.time() + LIFETIME_S + SKEW_S
        # An infinite expiry would end a search before the other peers answer.
        if not result.expiration_time <= latest:
            result.expiration_time = latest
