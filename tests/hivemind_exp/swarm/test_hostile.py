"""Real hostile members and outsiders on the wire. Honest nodes keep working as if they were not there.

Other tests check how the contents of bundles are verified.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PHandlerError
from hivemind.proto import dht_pb2

from hivemind_exp.swarm import announcement
from hivemind_exp.swarm.announcement import (
    LIFETIME_S,
    MAX_BUNDLE_BYTES,
    Announcement,
    RecordRefused,
    shard_key,
    shard_of,
)
from hivemind_exp.swarm.dht.guard import place_of
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.membership_proof import MAC_BYTES, NONCE_BYTES, ProvenRequest
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm.transfer.peer_transfers import _ASK, _HEAD, AT_ONCE, NAME, TransferKind
from tests.support.hostile.hostile_node import Hostile, dictionary, ref_of
from tests.support.hostile.trades import own_word, stored, trade
from tests.support.hostile.wire import SWARM, Peers, acquainted, eventually, peers_of, receive

pytestmark = pytest.mark.swarm
YEARS = 10 * 365 * 86_400
BOMB = msgpack.packb(1)
for _ in range(900):
    BOMB = msgpack.packb(msgpack.ExtType(0x40, b"\x91" + BOMB))
"""4 KB that crash any process that reads them with hivemind's own serializer."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SwarmNode, SwarmNode]]:
    """Two nodes that are used by all tests."""
    peers = Peers(tmp_path_factory.mktemp("honest"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hivemind_exp.swarm.node_thread.LOOK_S", 0.3)
        first = peers.start("first")
        second = peers.start("second", first.addresses())
        acquainted(first, second)
        yield first, second
        peers.close()


@pytest.fixture
def hostile(honest: tuple[SwarmNode, SwarmNode], tmp_path: Path) -> Iterator[Hostile]:
    with Hostile(tmp_path / "hostile") as made:
        for node in honest:
            made.ping(node)
        yield made


async def fetch(hostile: Hostile, node: SwarmNode, kind: TransferKind, sha256: bytes) -> bytes:
    """Make a handwritten request to a node, and return whatever it sends."""
    _, reader, writer = await hostile.p2p.call_binary_stream_handler(PeerID.from_base58(node.peer_id), NAME)
    asked = ProvenRequest(NAME, hostile.access.nonce(), time.time(), bytes((kind,)) + sha256)
    writer.write(_ASK.pack(kind, sha256, asked.nonce, asked.at, hostile.access.ask(node.peer_id, asked)))
    try:
        async with asyncio.timeout(5):
            got = await reader.read(5)
            return got + (await reader.readexactly(int.from_bytes(got[1:], "big")) if len(got) == 5 else b"")
    finally:
        writer.close()


def test_outsiders_learn_nothing(honest: tuple[SwarmNode, SwarmNode], tmp_path: Path) -> None:
    first, second = honest
    ref = first.publish(b"a secret", round=1, groups=1, step=1)
    first.charter = b"the charter"
    key = shard_key(SWARM, shard_of(first.peer_id))
    with Hostile(tmp_path / "outsider", swarm="6b" * 32) as outsider:
        outsider.connect(first)
        record, word = outsider.record()
        requests = {
            "ping": dht_pb2.PingRequest(peer=outsider.info),
            "find": dht_pb2.FindRequest(keys=[key], peer=outsider.info),
            "store": dht_pb2.StoreRequest(
                keys=[key],
                subkeys=[msgpack.packb(word.peer)],
                values=[msgpack.packb(record)],
                expiration_time=[word.expires],
                in_cache=[False],
            ),
        }
        for name, request in requests.items():
            for sign in (True, False):
                with pytest.raises(P2PHandlerError):
                    outsider.ask(first, name, request, sign=sign)
        for kind, sha256 in ((TransferKind.BUNDLE, ref.sha256), (TransferKind.CHARTER, bytes(32))):
            assert outsider.run(fetch(outsider, first, kind, sha256)) == b""
        overlay = first.overlay
        assert overlay is not None
        assert outsider.peer_id not in overlay.neighbours
        assert outsider.peer_id not in {peer.peer for peer in peers_of(first)}
    with Hostile(tmp_path / "member") as member:  # the same handwritten requests, made by a member
        member.connect(first)
        assert member.ask(first, "find", dht_pb2.FindRequest(keys=[key], peer=member.info)).results[0].value
        got = member.run(fetch(member, first, TransferKind.BUNDLE, ref.sha256))
        assert got == _HEAD.pack(0, 8) + b"a secret"
        # A request that another member made to a node cannot be replayed.
        asked = ProvenRequest("ping", member.access.nonce(), time.time(), b"")
        proof = second._access.ask(first.peer_id, asked)
        assert not first._access.may_ask(member.peer_id, asked, proof)


def test_invalid_records_are_not_stored(honest: tuple[SwarmNode, SwarmNode], hostile: Hostile) -> None:
    first, second = honest
    theirs, their_word = own_word(second)
    record, word = hostile.record()
    forged = replace(their_word, seq=their_word.seq + 2000)
    forged_record = hostile.identity.sign(b"announcement\x00" + bytes.fromhex(SWARM)) + theirs[64:]
    before = stored(first)
    key = shard_key(SWARM, shard_of(second.peer_id))
    soon = time.time() + 500
    attempts: dict[str, dict[str, Any]] = {
        "a forged owner": {"record": forged_record, "announcement": forged},
        "another's place": {"record": record, "announcement": their_word, "expires": word.expires},
        "another's record that lives longer": {"record": theirs, "announcement": their_word, "expires": soon + 300},
        "ten years": {"record": record, "announcement": word, "expires": time.time() + YEARS},
        "for ever": {"record": record, "announcement": word, "expires": math.inf},
        "never": {"record": record, "announcement": word, "expires": math.nan},
        "what cannot be decoded": {"record": record, "announcement": word, "value": b"\xc1"},
        "what ends a process": {"record": record, "announcement": word, "value": BOMB},
        "what ends a process as a name": {"record": record, "announcement": word, "subkey": BOMB},
        "a plain value over a dictionary": {"record": record, "announcement": word, "key": key, "subkey": b"\xc0"},
        "a dictionary that is none": {"record": record, "announcement": word, "subkey": b"", "value": BOMB},
        "an unknown key": {"record": record, "announcement": word, "key": bytes(20)},
    }
    for what, attempt in attempts.items():
        assert not hostile.announce(first, **attempt), what
    for age in (-3600.0, LIFETIME_S + 60.0):  # from the future, from the past
        made, said = hostile.record(age=age)
        assert not hostile.announce(first, made, said)
    assert not hostile.store(first, key, msgpack.packb(word.peer), msgpack.packb(record), word.expires, cache=True)
    assert stored(first) == before
    # Store the peer's own record, then try an older one, then repeat the first.
    assert hostile.announce(first, record, word)
    assert not hostile.announce(first, *hostile.record(age=30))
    assert hostile.announce(first, record, word)
    assert stored(first) == before + 1
    trade(first, second)


def test_ten_thousand_subkeys_and_a_thousand_identities_cost_little(
    honest: tuple[SwarmNode, SwarmNode], hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: set[str] = set()
    check = announcement.check_signature

    def counted(record: bytes, word: Announcement, swarm: str) -> None:
        checked.add(word.peer)
        check(record, word, swarm)

    monkeypatch.setattr(announcement, "check_signature", counted)
    first, second = honest
    key = shard_key(SWARM, 0)
    soon = time.time() + 500
    before, memory = stored(first), psutil.Process().memory_info().rss
    noise = msgpack.packb(os.urandom(300))
    many = dictionary(*((f"{number:052d}", noise, soon) for number in range(10_000)))
    assert 3_000_000 < len(many) < 4_000_000
    assert not hostile.store(first, key, b"", many, soon)
    assert not hostile.store(first, key, b"", dictionary(*((str(n), b"x", soon) for n in range(4000))), soon)
    assert checked <= {first.peer_id, second.peer_id}  # signatures, which are what costs
    assert stored(first) == before
    # A thousand real identities that no node knows.
    entries: dict[int, list[tuple[str, bytes, float]]] = {}
    for _ in range(1000):
        identity = Identity.generate()
        word = Announcement(identity.peer_id, int(time.time() * 1000), 1, 1)
        entries.setdefault(shard_of(identity.peer_id), []).append(
            (identity.peer_id, msgpack.packb(word.pack(identity, SWARM)), word.expires)
        )
    for shard, crowd in entries.items():
        hostile.store(first, shard_key(SWARM, shard), b"", dictionary(*crowd), soon)
    assert before < stored(first) <= before + 1000
    assert psutil.Process().memory_info().rss - memory < 100 * 2**20
    trade(first, second)


def test_false_answers_are_rejected(honest: tuple[SwarmNode, SwarmNode], hostile: Hostile) -> None:
    first, second = honest
    soon = time.time() + 500
    fakes = [Identity.generate().peer_id for _ in range(300)]
    nearest = {
        "nearest_peer_ids": [PeerID.from_base58(peer).to_bytes() for peer in fakes],
        "nearest_node_ids": [os.urandom(20) for _ in fakes],
    }
    dictionaries = [
        dictionary(("x", b"\xc1", soon), most="many"),
        dictionary((second.peer_id, b"\xc1", soon), most=1),
        dictionary((hostile.peer_id, msgpack.packb(hostile.record()[0]), math.inf)),
        dictionary(*((f"{number:052d}", b"noise", soon) for number in range(4000))),
        BOMB,
        b"\xc1",
        b"",
    ]
    told = 0

    def lie(request: dht_pb2.FindRequest) -> list[dht_pb2.FindResult]:
        nonlocal told
        told += 1
        kinds = (dht_pb2.FOUND_DICTIONARY, dht_pb2.FOUND_DICTIONARY, dht_pb2.FOUND_REGULAR)
        return [
            dht_pb2.FindResult(
                type=kinds[(told + at) % 3],
                value=dictionaries[(told + at) % len(dictionaries)],
                expiration_time=(math.inf, math.nan, soon + YEARS)[told % 3],
                **nearest,
            )
            for at in range(len(request.keys))
        ]

    hostile.found = lie
    overlay = first.overlay
    assert overlay is not None

    def heard_out() -> bool:
        if hostile.peer_id not in overlay.neighbours:  # dropped for invalid answers, so it pings again
            hostile.ping(first)
        return told > 20

    eventually(heard_out)
    assert not overlay.neighbours & set(fakes)
    assert not {peer.peer for peer in peers_of(first)} & set(fakes)
    trade(first, second)


def test_a_peer_cannot_choose_its_dht_id(honest: tuple[SwarmNode, SwarmNode], hostile: Hostile) -> None:
    first, second = honest
    overlay = first.overlay
    assert overlay is not None
    known = set(overlay._protocol.routing_table.uid_to_peer_id)
    for _ in range(50):
        with pytest.raises(P2PHandlerError):
            hostile.ask(first, "ping", dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=os.urandom(20))))
    assert set(overlay._protocol.routing_table.uid_to_peer_id) <= known
    hostile.info = dht_pb2.NodeInfo(node_id=place_of(SWARM, b"elsewhere").to_bytes())  # now in answers
    eventually(lambda: hostile.peer_id not in overlay.neighbours)
    trade(first, second)


def test_floods_are_cut_off(honest: tuple[SwarmNode, SwarmNode], hostile: Hostile) -> None:
    first, second = honest
    keys = [shard_key(SWARM, shard) for shard in range(8)]
    assert hostile.refused(first, "find", dht_pb2.FindRequest(keys=keys * 1000))
    assert hostile.refused(
        first, "store", dht_pb2.StoreRequest(keys=[b"x"] * 65, subkeys=[b"x"] * 65, values=[b"x"] * 65)
    )

    async def flood() -> int:
        calls = [
            hostile._ask(first.peer_id, "ping", dht_pb2.PingRequest(peer=hostile.info, validate=True), sign=True)
            for _ in range(1000)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return sum(isinstance(result, BaseException) for result in results)

    assert hostile.run(flood()) > 500
    trade(first, second)


def test_bundles_that_differ_from_their_announcement_are_rejected(
    honest: tuple[SwarmNode, SwarmNode], hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 0.2)
    first, second = honest
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readexactly(_ASK.size)
        size = 100 * 2**20
        writer.write(_HEAD.pack(0, (size, 1000)[sent % 2]))
        sent += 1
        for _ in range(size // 2**16):
            writer.write(bytes(2**16))
            await writer.drain()

    with pytest.raises(RecordRefused):
        hostile.record(ref_of(b"large", size=100 * 2**20))
    hostile.stream = endless
    memory = psutil.Process().memory_info().rss
    assert hostile.announce(first, *hostile.record(ref_of(b"x" * 1000)))
    eventually(lambda: sent >= 4)
    assert psutil.Process().memory_info().rss - memory < 50 * 2**20
    assert first.take() == []
    trade(first, second)


def test_peers_that_serve_slowly_or_nothing_occupy_one_fetch_each(
    honest: tuple[SwarmNode, SwarmNode], hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers.PATIENCE_S", 1.5)
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 20.0)
    first, second = honest

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(_ASK.size)
        writer.write(_HEAD.pack(0, 1_000_000))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)

    async def nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    hostile.stream = drip
    refs = [ref_of(bytes([number]) * 100, size=1_000_000) for number in range(8)]
    with Hostile(tmp_path / "mute") as mute:
        mute.stream = nothing
        mute.ping(first)
        for one in (hostile, mute):
            assert one.announce(first, *one.record(*refs))
        eventually(lambda: hostile.streams and mute.streams)
        # There may also be a fetch from the other honest node, for a bundle of an earlier test.
        assert set(first.fetcher.running) - {second.peer_id} == {hostile.peer_id, mute.peer_id}
        threads = threading.active_count()
        trade(first, second, 5)  # meanwhile
        assert threading.active_count() == threads
        eventually(lambda: not first.fetcher.running)
        assert hostile.streams + mute.streams <= 8  # each honest node asks the author, then other peers
        assert first.fetcher._authors[hostile.peer_id].until > time.monotonic() + 5


def test_slow_downloaders_do_not_delay_other_peers(
    honest: tuple[SwarmNode, SwarmNode], hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers.PATIENCE_S", 1.0)
    first, second = honest
    ref = first.publish(os.urandom(MAX_BUNDLE_BYTES), round=1, groups=1, step=1)
    receive(second, 1)

    async def hold(proof: bool) -> list[Any]:
        held = []
        for _ in range(20):
            stream = await hostile.p2p.call_binary_stream_handler(PeerID.from_base58(first.peer_id), NAME)
            asked = ProvenRequest(NAME, hostile.access.nonce(), time.time(), bytes((1,)) + ref.sha256)
            request = _ASK.pack(
                1,
                ref.sha256,
                asked.nonce,
                asked.at,
                hostile.access.ask(first.peer_id, asked) if proof else bytes(MAC_BYTES),
            )
            stream[2].write(request if proof else request[:NONCE_BYTES])
            held.append(stream)
        return held

    transfers = first.transfers
    for proof in (True, False):
        held = hostile.run(hold(proof))
        assert transfers._streams[hostile.peer_id] <= 8
        assert transfers._uploads[hostile.peer_id] <= 2
        trade(first, second, 5)
        if not proof:
            eventually(lambda: not transfers._streams[hostile.peer_id])
        for _, _, writer in held:
            hostile._loop.call_soon_threadsafe(writer.transport.abort)
    eventually(lambda: not transfers._streams.total())


def test_a_crowd_that_serves_nothing_does_not_block_fetching(
    honest: tuple[SwarmNode, SwarmNode], hostile: Hostile
) -> None:
    first, second = honest
    crowd = [Identity.generate() for _ in range(100)]
    for identity in crowd:
        word = Announcement(
            identity.peer_id,
            int(time.time() * 1000),
            1,
            1,
            addresses=("/ip4/127.0.0.1/tcp/9",),
            bundles=(ref_of(identity.peer_id.encode()),),
        )
        assert hostile.announce(first, word.pack(identity, SWARM), word)
    eventually(lambda: first.fetcher.failures > 20)
    assert len(first.fetcher.running) <= AT_ONCE
    trade(first, second)
