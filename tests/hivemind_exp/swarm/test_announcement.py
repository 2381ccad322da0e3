"""Announcements: valid records are accepted, and all others are rejected."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.swarm import contacts
from hivemind_exp.swarm.announcement import (
    LIFETIME_S,
    MAX_BUNDLE_BYTES,
    SHARD_BYTES,
    SHARDS,
    Announcement,
    AnnouncementBook,
    BundleRef,
    RecordRefused,
    next_seq,
    shard_key,
    shard_of,
)
from hivemind_exp.swarm.contacts import Contact, Contacts, KnownPeers
from hivemind_exp.swarm.dht.guard import Guard
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import Incarnation
from hivemind_exp.swarm.membership_proof import MembershipProof, ProvenRequest
from hivemind_exp.swarm.token_bucket import TokenBucket
from tests.support.hostile.records import unpack
from tests.support.hostile.wire import SWARM

ME = Identity.generate()
OTHER = "6b" * 32
NOW = 1_790_000_000.0
REF = BundleRef(3, 1, bytes(range(32)), 1000, 8)
WORD = Announcement(
    *(ME.peer_id, int(NOW * 1000), 3, 12, 417, "policy", ("/ip4/203.0.113.7/tcp/4001",), (REF,)),
    incarnation=Incarnation(1700, 1800),
)


def body(**changes: object) -> bytes:
    """Return a correctly signed record, with some fields changed."""
    fields: dict[str, object] = {
        "version": 2,
        "peer": ME.peer_id,
        "seq": WORD.seq,
        "round": 3,
        "step": 12,
        "progress": 417,
        "label": "policy",
        "addresses": ["/ip4/203.0.113.7/tcp/4001"],
        "bundles": [[3, 1, bytes(range(32)), 1000, 8]],
        "incarnation": [1700, 1800],
        **changes,
    }
    return sign(msgpack.packb(list(fields.values())))


def sign(content: bytes) -> bytes:
    return ME.sign(b"announcement\x00" + bytes.fromhex(SWARM) + content) + content


def test_a_record_survives_a_round_trip() -> None:
    record = WORD.pack(ME, SWARM)
    assert record == body()
    assert unpack(record, SWARM, NOW) == WORD
    assert len(record) < 300
    full = dataclasses.replace(
        WORD,
        addresses=tuple(f"/ip4/203.0.113.{i}/tcp/4001" for i in range(4)),
        bundles=tuple(dataclasses.replace(REF, sha256=bytes([i]) * 32) for i in range(8)),
        label="teacher, openai gpt-4o-mini",
    )
    assert len(full.pack(ME, SWARM)) < 750


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 1}, "version"),
        ({"version": True}, "version"),
        ({"more": 1}, "shape"),
        ({"peer": "12D3KooW"}, "peer"),
        ({"peer": b"x"}, "peer"),
        ({"seq": -1}, "numbers"),
        ({"round": 1.5}, "numbers"),
        ({"step": 2**53 + 1}, "numbers"),
        ({"round": True}, "numbers"),
        ({"progress": 1001}, "progress"),
        ({"progress": "most"}, "progress"),
        ({"label": "\x1b[31mred"}, "label"),
        ({"label": "a\u202eb"}, "label"),
        ({"label": "x" * 65}, "label"),
        ({"label": b"x"}, "label"),
        ({"addresses": ["/ip4/1.2.3.4/tcp/1"] * 5}, "addresses"),
        ({"addresses": ["/unix/etc/passwd"]}, "addresses"),
        ({"addresses": ["/ip4/1.2.3.4/tcp/1\n"]}, "addresses"),
        ({"addresses": "all"}, "addresses"),
        ({"bundles": [[3, 1, bytes(32), MAX_BUNDLE_BYTES + 1, 8]]}, "size"),
        ({"bundles": [[3, 1, bytes(32), 100 * 2**20, 8]]}, "size"),
        ({"bundles": [[3, 1, bytes(32), 0, 8]]}, "size"),
        ({"bundles": [[3, 1, bytes(31), 1, 8]]}, "hash"),
        ({"bundles": [[3, 16, bytes(32), 1, 8]]}, "numbers"),
        ({"bundles": [[3, 1, bytes(32), 1]]}, "shape"),
        ({"bundles": [[3, 1, bytes(32), 1, 8]] * 2}, "duplicate"),
        ({"bundles": [[i, 1, bytes([i]) * 32, 1, 8] for i in range(9)]}, "bundles"),
        ({"bundles": {}}, "bundles"),
        ({"incarnation": [1]}, "incarnation"),
        ({"incarnation": [1, -1]}, "incarnation"),
        ({"incarnation": None}, "incarnation"),
        ({"seq": int((NOW + 11) * 1000)}, "future"),
        ({"seq": 2**52}, "future"),
        ({"seq": int((NOW - LIFETIME_S - 11) * 1000)}, "expired"),
        ({"label": "x", "addresses": ["/dns/" + "a" * 4000 + "/tcp/1"]}, "size"),
    ],
)
def test_invalid_fields_are_rejected(changes: dict[str, object], why: str) -> None:
    with pytest.raises(RecordRefused, match=why):
        unpack(body(**changes), SWARM, NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 3000 + b"\x01",
        b"\xd9\x02\xff\xfe",
        b"\xa5ab",
        msgpack.packb({"version": 1}),
        msgpack.packb(msgpack.ExtType(64, b"\x91\x01")),
        msgpack.packb([1] * 9) + b"\x00",
    ],
)
def test_undecodable_records_are_rejected(content: bytes) -> None:
    with pytest.raises(RecordRefused):
        unpack(sign(content), SWARM, NOW)


@given(st.binary(max_size=400))
def test_noise_is_rejected(noise: bytes) -> None:
    with pytest.raises(RecordRefused):
        unpack(noise, SWARM, NOW)


@pytest.mark.slow
@given(st.integers(0, len(WORD.pack(ME, SWARM)) - 1), st.integers(1, 255))
def test_one_changed_byte_is_rejected(where: int, by: int) -> None:
    record = bytearray(WORD.pack(ME, SWARM))
    record[where] ^= by
    with pytest.raises(RecordRefused):
        unpack(bytes(record), SWARM, NOW)


def test_a_signature_is_only_valid_in_its_swarm() -> None:
    record = WORD.pack(ME, SWARM)
    with pytest.raises(RecordRefused, match="signature"):
        unpack(record, OTHER, NOW)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def put(book: AnnouncementBook, identity: Identity, at: float, *, swarm: str = SWARM, **changes: object) -> bool:
    word = Announcement(identity.peer_id, int(at * 1000), 1, 1, label="x" * 60)
    place: dict[str, object] = {
        "key": shard_key(swarm, shard_of(identity.peer_id)),
        "subkey": msgpack.packb(identity.peer_id),
        "value": msgpack.packb(word.pack(identity, swarm)),
        "expires": word.expires,
    }
    return book.judge(**{**place, **changes})  # type: ignore[arg-type]


def test_the_book_keeps_each_peers_newest_record() -> None:
    clock = Clock()
    book = AnnouncementBook(SWARM, ME.peer_id, clock)
    peer = Identity.generate()
    assert put(book, peer, NOW)
    assert put(book, peer, NOW)  # the same record again
    assert not put(book, peer, NOW - 1)  # replayed
    assert not put(book, peer, NOW + 0.5)  # too soon
    assert put(book, peer, NOW + 1)
    assert not put(book, peer, NOW)  # reordered
    word = book.get(peer.peer_id)
    assert word is not None
    assert word.t == NOW + 1
    clock.now += LIFETIME_S + 20
    assert book.get(peer.peer_id) is None
    assert book.newest() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(20)},
        {"key": b"a longer key than any"},
        {"subkey": msgpack.packb(None)},
        {"subkey": msgpack.packb(ME.peer_id)},
        {"subkey": b""},
        {"subkey": b"\xd9\x34" + b"\xff" * 52},
        {"subkey": msgpack.packb([1])},
        {"expires": NOW + 10 * 365 * 86_400},
        {"expires": float("inf")},
        {"expires": float("nan")},
        {"expires": NOW},
        {"value": msgpack.packb("text")},
        {"value": b"\xc1"},
        {"value": b"\xc6\xff\xff\xff\xff"},
        {"value": b""},
        {"value": msgpack.packb(b"x" * 200)},
        {"value": msgpack.packb(b"x" * 60_000)},
    ],
)
def test_the_book_rejects_invalid_entries(changes: dict[str, object]) -> None:
    book = AnnouncementBook(SWARM, ME.peer_id, Clock())
    peer = Identity.generate()
    assert not put(book, peer, NOW, **changes)
    assert sum(book.refused.values()) == 1
    assert put(book, peer, NOW)


def test_the_book_rejects_other_swarms_and_forged_owners() -> None:
    book = AnnouncementBook(SWARM, ME.peer_id, Clock())
    peer, forger = Identity.generate(), Identity.generate()
    word = Announcement(peer.peer_id, int(NOW * 1000), 1, 1)
    place = (shard_key(SWARM, shard_of(peer.peer_id)), msgpack.packb(peer.peer_id))
    assert not book.judge(*place, msgpack.packb(word.pack(forger, SWARM)), word.expires)
    assert not book.judge(*place, msgpack.packb(word.pack(peer, OTHER)), word.expires)
    assert book.judge(*place, msgpack.packb(word.pack(peer, SWARM)), word.expires)


def test_a_crowd_of_new_peers_is_limited_by_signature_checks() -> None:
    book = AnnouncementBook(SWARM, ME.peer_id, Clock())
    book._checks = TokenBucket(500, 500, lambda: 0.0)  # as if all records arrived at once
    old = Identity.generate()
    assert put(book, old, NOW)
    taken = sum(put(book, Identity.generate(), NOW) for _ in range(600))
    assert taken == 249  # half of the checks are reserved for known peers
    assert put(book, old, NOW + 2)
    assert book.refused == {"too many signatures to check": 600 - taken}


def test_a_full_dictionary_keeps_its_peers_and_rejects_new_ones() -> None:
    book = AnnouncementBook(SWARM, ME.peer_id, Clock())
    book._checks.take = lambda *_, **__: True  # type: ignore[method-assign]
    shard = shard_of(ME.peer_id)
    book._weights[shard] = SHARD_BYTES - 1000
    same = [peer for peer in (Identity.generate() for _ in range(16 * SHARDS)) if shard_of(peer.peer_id) == shard]
    taken = [peer for peer in same if put(book, peer, NOW)]
    assert 1 <= len(taken) <= 4
    assert len(same) > len(taken)
    assert put(book, taken[0], NOW + 2)


def test_records_by_others_under_this_nodes_identity_are_rejected() -> None:
    book = AnnouncementBook(SWARM, ME.peer_id, Clock())
    word = Announcement(ME.peer_id, int(NOW * 1000), 1, 1)
    book.issue(word.pack(ME, SWARM), word)
    assert put(book, ME, NOW, value=msgpack.packb(word.pack(ME, SWARM)))
    assert book.foreign is None
    assert not put(book, ME, NOW + 5)
    assert book.foreign is not None
    assert book.foreign.seq == int((NOW + 5) * 1000)


def test_a_node_whose_clock_was_set_back_is_heard_at_once() -> None:
    """Its records from before are signed in the future, so peers have refused them."""
    ahead = next_seq(0, NOW + 7200)
    assert next_seq(ahead, NOW + 7200) == ahead + 1000
    assert next_seq(ahead, NOW) == int(NOW * 1000)
    clock, peer = Clock(), Identity.generate()
    own, reader = (AnnouncementBook(SWARM, name, clock) for name in (ME.peer_id, peer.peer_id))
    assert put(own, peer, NOW)
    for seq, taken in ((ahead, False), (next_seq(ahead, NOW), True)):
        word = Announcement(ME.peer_id, seq, 1, 1)
        own.issue(word.pack(ME, SWARM), word)
        assert put(reader, ME, seq / 1000, value=msgpack.packb(word.pack(ME, SWARM))) is taken
    clock.now += LIFETIME_S + 60
    own._swept = clock.now + 7200  # swept before the clock was set back
    assert [announcement.peer for _, announcement in own.newest()] == []


class StoredParts:
    """Stands in for hivemind's protocol: its storage is real."""

    def __init__(self) -> None:
        self.storage = DHTLocalStorage()


def test_this_nodes_part_of_the_dht_replaces_its_record_from_before_the_clock_was_set_back() -> None:
    book = AnnouncementBook(SWARM, ME.peer_id)
    guard = Guard(StoredParts(), SWARM, MembershipProof(SWARM, ME.peer_id), book, lambda: None)  # type: ignore[arg-type]
    key, subkey = shard_key(SWARM, shard_of(ME.peer_id)), msgpack.packb(ME.peer_id)
    for seq in (next_seq(0, time.time() + 7200), next_seq(0, time.time())):
        word = Announcement(ME.peer_id, seq, 1, 1)
        record = word.pack(ME, SWARM)
        book.issue(record, word)
        assert guard.keep(key, subkey, msgpack.packb(record), word.expires)
    stored = guard.protocol.storage.get(DHTID.from_bytes(key))
    assert stored is not None
    assert stored.value.get(ME.peer_id).expiration_time == word.expires


@pytest.mark.parametrize("asked", [7200, -7200])
def test_contacts_that_were_asked_before_the_clock_was_set_are_due(asked: float, tmp_path: Path) -> None:
    peer, now = Identity.generate().peer_id, time.time()
    known = KnownPeers(tmp_path / "peers.json")
    known[peer] = Contact(asked=now + asked)
    asking = Contacts(ME.peer_id, (), known, AnnouncementBook(SWARM, ME.peer_id))
    assert asking._due(peer, now, set())


def test_a_crowd_that_announces_itself_displaces_nobody_who_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownPeers(tmp_path / "peers.json")
    for number in range(3):
        known.asked(f"friend {number}", answered=True)
    searches: list[int] = []
    search = contacts.nsmallest

    def counted(surplus: int, *rest: Any, **options: Any) -> Any:
        searches.append(surplus)
        return search(surplus, *rest, **options)

    monkeypatch.setattr(contacts, "nsmallest", counted)
    crowd = {f"stranger {number}": ("/ip4/203.0.113.7/tcp/1",) for number in range(2000)}
    known.heard_of(crowd)
    assert [*known] == [*(f"friend {number}" for number in range(3)), *list(crowd)[3 - contacts.MOST :]]
    assert searches == [2003 - contacts.MOST]  # once, however many there are
    known.heard_of({"friend 1": ("/ip4/203.0.113.7/tcp/2",)})
    assert known["friend 1"].addresses == ("/ip4/203.0.113.7/tcp/2",)
    known.asked("new", answered=True)
    assert (len(known), "new" in known) == (contacts.MOST, True)


def test_membership_proofs_cannot_be_forged_or_replayed() -> None:
    clock = Clock()
    names = [Identity.generate().peer_id for _ in range(3)]
    alice, bob, eve = (MembershipProof(SWARM, name, clock) for name in names)
    outsider = MembershipProof(OTHER, names[2], clock)
    asked = ProvenRequest("find", alice.nonce(), NOW, b"what")
    proof = alice.ask(names[1], asked)
    assert not eve.may_ask(names[0], asked, proof)  # it was made for bob
    assert not bob.may_ask(names[2], asked, proof)  # sent by a peer other than its author
    assert not bob.may_ask(names[0], dataclasses.replace(asked, body=b"else"), proof)
    assert not bob.may_ask(names[0], dataclasses.replace(asked, name="store"), proof)
    assert not bob.may_ask(names[0], dataclasses.replace(asked, at=float("nan")), proof)
    assert not bob.may_ask(names[2], asked, outsider.ask(names[1], asked))
    assert bob.may_ask(names[0], asked, proof)
    assert not bob.may_ask(names[0], asked, proof)  # replayed
    clock.now += 61
    late = dataclasses.replace(asked, nonce=alice.nonce())
    assert not bob.may_ask(names[0], late, alice.ask(names[1], late))
    ping = dataclasses.replace(asked, name="ping", nonce=alice.nonce())
    assert bob.may_ask(names[0], ping, alice.ask(names[1], ping))  # else nobody could tell that a clock is wrong
    assert not bob.may_ask(names[0], ping, alice.ask(names[1], ping))  # replayed
    answer = bob.answer(names[0], "find", asked.nonce, b"this")
    assert alice.may_answer(names[1], "find", asked.nonce, b"this", answer)
    assert not alice.may_answer(names[2], "find", asked.nonce, b"this", answer)
    assert not alice.may_answer(names[1], "find", late.nonce, b"this", answer)
    assert not alice.may_answer(names[1], "find", asked.nonce, b"that", answer)
