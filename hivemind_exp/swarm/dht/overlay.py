"""One run of libp2p's daemon with hivemind's DHT on top. If the daemon dies, a new overlay replaces the old one.

The DHT node is created in client mode, and opened to peers when all checks are in place: otherwise hivemind would
answer the first callers unchecked. This uses the DHT's routing and its store and find calls, but not its ``get`` and
``store``, which download whole dictionaries just to find a route.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from hivemind.dht import DHTID, DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import dht_pb2, p2pd_pb2

from hivemind_exp.patience import within
from hivemind_exp.swarm.announcement import SHARDS, Announcement, AnnouncementBook, is_address, shard_key, shard_of
from hivemind_exp.swarm.clock_skew import ClockSkews
from hivemind_exp.swarm.dht.daemon import CONNECT_S, Daemon
from hivemind_exp.swarm.dht.guard import (
    BUCKET_SIZE,
    MAX_KEYS,
    AnnouncementValidator,
    Caller,
    Guard,
    StrictSerializer,
    place_of,
)
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm_settings import SwarmConfig

REPLICAS = 5
"""Number of peers that keep a dictionary, its keepers."""
READERS = 2
"""Number of keepers that are asked for a dictionary. A record missing at one is likely to be at the other. If both miss
it, the next look may find it."""
CALL_S = 3.0
"""Timeout for a peer's answer."""
SEARCH_S = 10.0
_BEAM = 8
"""Number of peers near a dictionary that are asked for nearer peers."""
_WAY_S = 60.0
"""How long the keepers of a dictionary are remembered."""
_REPLACEMENTS = 20
_FAILURES = 1024


def _narrowness(address: str) -> int:
    """Return 0 for an address that is reachable from anywhere, 1 from a local network, 2 only from this machine."""
    _, kind, host, *_ = address.split("/")
    if kind not in ("ip4", "ip6"):
        return 0
    try:
        where = ipaddress.ip_address(host)
    except ValueError:
        return 2
    return 2 if where.is_loopback else int(not where.is_global)


class Overlay(Daemon):
    """A daemon, its DHT node, and the requests made to peers through them."""

    def __init__(
        self, swarm: str, access: MembershipProof, book: AnnouncementBook, on_news: Callable[[], None]
    ) -> None:
        super().__init__()
        self._swarm, self._access, self._book, self._on_news = swarm, access, book, on_news
        self._node: DHTNode = None
        """None until ``open`` has created it."""
        self._guard: Guard
        self._ways: dict[int, tuple[float, int, list[PeerID]]] = {}
        self.skews = ClockSkews()
        self.bytes_read = 0
        """Bytes of dictionaries read in the last look."""

    async def open(self, key: Path, port: int, settings: SwarmConfig, former: Overlay | None = None) -> None:
        """Start the daemon and open the DHT node to peers. ``former``: the previous overlay, whose records are kept.

        Raises any exception of hivemind and the system.
        """
        away = not settings.loopback
        await self.start(
            key,
            host_maddrs=[f"/ip4/{'0.0.0.0' if away else '127.0.0.1'}/tcp/{port}"],
            announce_maddrs=settings.announce or None,
            identity_path=str(key),
            check_if_identity_free=False,
            nat_port_map=away,
            auto_nat=away,
            use_relay=away and settings.relay,
            use_auto_relay=away and settings.relay,
        )
        # Client mode at first: nothing is registered yet that peers could call.
        self._node = await DHTNode.create(
            p2p=self._p2p,
            node_id=place_of(self._swarm, self._p2p.peer_id.to_bytes()),
            bucket_size=BUCKET_SIZE,
            num_replicas=REPLICAS,
            wait_timeout=CALL_S,
            cache_locally=False,
            cache_nearest=0,
            cache_size=1,
            cache_refresh_before_expiry=0,
            cache_on_store=False,
            reuse_get_requests=False,
            chunk_size=MAX_KEYS,
            client_mode=True,
            record_validator=AnnouncementValidator(self._book),
        )
        protocol = self._node.protocol
        if former is not None:
            protocol.storage = former._node.protocol.storage
        protocol.client_mode = False
        protocol.node_info = dht_pb2.NodeInfo(node_id=self._node.node_id.to_bytes())
        protocol.serializer = StrictSerializer
        protocol.get_stub = self._caller
        protocol._validate_dictionary = self._sift
        self._guard = Guard(protocol, self._swarm, self._access, self._book, self._on_news)
        await protocol.add_p2p_handlers(self._p2p, self._guard)

    async def close(self, patience: float = 1.0) -> None:
        """Stop the daemon, by force after ``patience`` seconds."""
        if self._node is not None:
            self._node.is_alive = False
        await super().close(patience)

    # --- peers

    @property
    def neighbours(self) -> set[str]:
        """Peers in the routing table."""
        return set() if self._node is None else {str(peer) for peer in self._node.protocol.routing_table.peer_id_to_uid}

    async def addresses(self) -> list[str]:
        """Return this node's addresses without its peer id, those with the widest reach first.

        Raises OSError, EOFError or TimeoutError if the daemon is gone or stuck.
        """
        _, found = await within(CONNECT_S, self._p2p._client.identify())
        return sorted(filter(is_address, map(str, found)), key=_narrowness)

    async def is_connected(self, peer: str) -> bool:
        """Return whether the daemon has a connection to a peer, no matter which side opened it."""
        try:
            connected = await within(CONNECT_S, self._p2p.list_peers())
        except Exception:  # noqa: BLE001 - the daemon may be gone
            return False
        return any(str(each.peer_id) == peer for each in connected)

    async def ping(self, peer: str) -> bool:
        """Ping a peer, so that both enter each other's routing table. Returns whether it answered as a member."""
        return await self._protocol.call_ping(PeerID.from_base58(peer)) is not None

    async def find_neighbors(self) -> None:
        """Find the peers nearest to this node. They learn of this node, too."""
        node = self._node
        if node.protocol.routing_table.uid_to_peer_id:
            with contextlib.suppress(TimeoutError, AssertionError):
                await within(SEARCH_S, node.find_nearest_nodes([node.node_id], beam_size=_BEAM, k_nearest=_BEAM))

    def prune(self) -> None:
        """Drop data that hivemind would keep forever: spare peers of full buckets, and peers that failed."""
        table = self._protocol.routing_table
        for bucket in table.buckets:
            for place in list(bucket.replacement_nodes)[:-_REPLACEMENTS]:
                del table[place]
        if len(self._node.blacklist.ban_counter) > _FAILURES:
            self._node.blacklist.clear()

    # --- records

    async def store(self, record: bytes, announcement: Announcement) -> int:
        """Store this node's record at the keepers of its dictionary. Returns how many peers have it now."""
        shard = shard_of(announcement.peer)
        key, value, expires = shard_key(self._swarm, shard), StrictSerializer.dumps(record), announcement.expires
        self._guard.keep(key, StrictSerializer.dumps(announcement.peer), value, expires)
        keepers = (await self._keepers([shard]))[shard]
        calls = [
            self._protocol.call_store(peer, [DHTID.from_bytes(key)], [value], [expires], [announcement.peer])
            for peer in keepers
        ]
        answers = await asyncio.gather(*calls)
        return sum(bool(answer and answer[0]) for answer in answers)

    async def look(self, authors: Iterable[str] = ()) -> None:
        """Read all dictionaries into the announcement book.

        Also ask each of ``authors`` for the dictionary with its own record, which it always keeps itself.
        """
        keepers = await self._keepers(range(SHARDS))
        plan: dict[PeerID, list[DHTID]] = {}
        for shard, peers in keepers.items():
            key = DHTID.from_bytes(shard_key(self._swarm, shard))
            for peer in random.sample(peers, min(READERS, len(peers))):
                plan.setdefault(peer, []).append(key)
        for author in authors:
            key = DHTID.from_bytes(shard_key(self._swarm, shard_of(author)))
            asked = plan.setdefault(PeerID.from_base58(author), [])
            if key not in asked:
                asked.append(key)
        self.bytes_read = 0
        await asyncio.gather(
            *(
                self._protocol.call_find(peer, keys[first : first + MAX_KEYS])
                for peer, keys in plan.items()
                for first in range(0, len(keys), MAX_KEYS)
            )
        )

    async def _keepers(self, shards: Iterable[int]) -> dict[int, list[PeerID]]:
        """Return the keepers of each dictionary, without this node."""
        node = self._node
        table = node.protocol.routing_table
        now, known = time.monotonic(), len(table.uid_to_peer_id)
        found = {}
        for shard in shards:
            at, then, peers = self._ways.get(shard, (-_WAY_S, -1, []))
            # Ignore nearer peers for a minute, as long as enough of the remembered keepers are still in the table.
            enough = len(peers) >= REPLICAS or then >= known
            if now - at < _WAY_S and enough and all(peer in table for peer in peers):
                found[shard] = peers
        missing = [shard for shard in shards if shard not in found]
        if missing and known:
            # Search for an adjacent key, which has the same neighbors, but nothing stored under it. With the real key,
            # hivemind would send the dictionary along with each answer.
            beside = {DHTID(int.from_bytes(shard_key(self._swarm, shard), "big") ^ 1): shard for shard in missing}
            try:
                search = node.find_nearest_nodes(list(beside), k_nearest=REPLICAS, beam_size=_BEAM, exclude_self=True)
                near = {key: list(way.values()) for key, way in (await within(SEARCH_S, search)).items()}
            except (TimeoutError, AssertionError):
                near = {key: [peer for _, peer in table.get_nearest_neighbors(key, REPLICAS)] for key in beside}
            for key, peers in near.items():
                found[beside[key]] = peers
                self._ways[beside[key]] = (now, known, peers)
        return {shard: found.get(shard, []) for shard in shards}

    @property
    def _protocol(self) -> DHTProtocol:
        return self._node.protocol

    def _caller(self, peer: PeerID) -> Caller:
        return Caller(self.stub(peer), peer, self._swarm, self._access, self.skews)

    def _sift(self, key: bytes, dictionary: DictionaryDHTValue) -> bool:
        """Remove rejected records from a dictionary, which hivemind would otherwise discard as a whole."""
        with dictionary.freeze():
            for peer, item in list(dictionary.data.items()):
                self.bytes_read += len(item.value)
                if not self._book.judge(key, StrictSerializer.dumps(peer), item.value, item.expiration_time):
                    del dictionary[peer]
        return True

    # --- streams

    async def serve_streams(self, name: str, handler: Callable[[str, Any, Any], Any]) -> None:
        """Call ``handler(peer, reader, writer)`` for each stream that a peer opens under ``name``."""

        async def take(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(str(info.peer_id), reader, writer)

        await self._p2p.add_binary_stream_handler(name, take)

    @contextlib.asynccontextmanager
    async def stream(self, peer: str, name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a stream to a peer, closed at the end of the block. Raises OSError or hivemind's ``ControlFailure``."""
        reader, writer = await self._p2p._client.control.daemon_connector.open_connection()
        try:
            request = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer).to_bytes(), proto=[name])
            await write_pbmsg(writer, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request))
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
            yield reader, writer
        finally:
            writer.transport.abort()
