"""A short conversation with one peer, under an identity that is used for nothing else.

libp2p never connects a node to its own peer id. So a node that looks for another running copy of itself asks with a
daemon that has a new identity and ends with the conversation.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from hivemind_exp.patience import within
from hivemind_exp.swarm.announcement import LIFETIME_S, Announcement, AnnouncementBook, shard_key, shard_of
from hivemind_exp.swarm.clock_skew import ClockSkews
from hivemind_exp.swarm.dht.daemon import Daemon
from hivemind_exp.swarm.dht.guard import Caller, StrictSerializer
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.waits import while_alive

ANSWER_S = 10.0
_CLOSE_S = 0.3


class AddressVisit:
    """A connection to a peer of a swarm."""

    def __init__(self, caller: Caller, peer: str) -> None:
        self._caller, self._peer, self._swarm = caller, peer, caller.swarm
        self._key = shard_key(self._swarm, shard_of(peer))

    async def announcement(self) -> Announcement | None:
        """Return the peer's announcement, with its signature checked; None if it has none yet.

        Its time is not checked: the peer is connected, so the announcement is its present one, whatever its clock says.

        Raises any exception of hivemind, and TimeoutError.
        """
        request = dht_pb2.FindRequest(keys=[self._key])
        (result,) = (await within(ANSWER_S, self._caller.rpc_find(request, timeout=ANSWER_S))).results
        found = StrictSerializer.loads(result.value) if result.type == dht_pb2.FOUND_DICTIONARY else None
        item = found.get(self._peer) if isinstance(found, DictionaryDHTValue) else None
        if item is None:
            return None
        expires = item.expiration_time
        book = AnnouncementBook(self._swarm, own="", clock=lambda: float(expires - LIFETIME_S))
        if not book.judge(self._key, StrictSerializer.dumps(self._peer), item.value, expires):
            return None
        return book.get(self._peer)

    async def hand_over(self, record: bytes, expires: float) -> None:
        """Send the peer a record with its own peer id. Raises any exception of hivemind, and TimeoutError."""
        request = dht_pb2.StoreRequest(
            keys=[self._key],
            subkeys=[StrictSerializer.dumps(self._peer)],
            values=[StrictSerializer.dumps(record)],
            expiration_time=[expires],
            in_cache=[False],
        )
        await within(ANSWER_S, self._caller.rpc_store(request, timeout=ANSWER_S))


@contextlib.asynccontextmanager
async def visit(peer: str, address: str, *, swarm: str, key: Path, relay: bool) -> AsyncIterator[AddressVisit | None]:
    """Connect to a peer at this address only, until the end of the block. Yields None if that peer isn't there.

    Args:
        swarm: the charter's id (hex).
        key: the key file of this node, which marks the daemon's sockets. The daemon does not read it.
        relay: whether the address may lead through a relay.

    Raises any exception of hivemind and the system.
    """
    daemon = Daemon()
    try:
        starting = daemon.start(
            key,
            host_maddrs=None,
            no_listen=True,
            dht_mode="client",
            nat_port_map=False,
            auto_nat=False,
            use_relay=relay,
            use_auto_relay=False,
        )
        await while_alive(starting, daemon.died())
        if await daemon.connect(peer, [address]):
            there = PeerID.from_base58(peer)
            proof = MembershipProof(swarm, daemon.peer_id)
            yield AddressVisit(Caller(daemon.stub(there), there, swarm, proof, ClockSkews()), peer)
        else:
            yield None
    finally:
        daemon.kill()
        await daemon.close(_CLOSE_S)
