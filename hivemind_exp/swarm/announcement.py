"""Announcements: the small signed records that peers publish about themselves in the DHT.

A record is 64 bytes of signature and a msgpack array::

    [version, peer, seq, round, step, progress, label, [address, …], [[round, stage, sha256, size, groups], …],
     [restored, started]]

Everything else is rejected: other fields, other types, other lengths. This module imports neither hivemind nor torch.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass
from typing import Any

import msgpack

from hivemind_exp.swarm.identity import PEER_ID_CHARACTERS, SIGNATURE_BYTES, Identity, is_peer_id, verify
from hivemind_exp.swarm.incarnation import UNCOUNTED, Incarnation
from hivemind_exp.swarm.token_bucket import TokenBucket

VERSION = 2
LIFETIME_S = 600
"""A record expires this long after it was signed: longer than the pause between two records of a peer, but short
enough to forget dead peers."""
SKEW_S = 10.0
"""How far in the future a record may be signed, because clocks differ."""
LEAST_PAUSE_S = 1.0
"""Least pause between two records that a node publishes."""
MAX_BYTES = 4096
"""Largest record with its signature. Typical records have 300 to 700 bytes."""
MAX_BUNDLES = 8
MAX_BUNDLE_BYTES = 2 * 1024 * 1024
MAX_GROUPS = 4096
MAX_STAGES = 16
MAX_ADDRESSES = 4
MAX_ADDRESS_CHARACTERS = 160
MAX_LABEL_CHARACTERS = 64
SHARDS = 8
"""Number of DHT dictionaries that share a swarm's records. A dictionary is always read and sent as a whole."""

SHARD_BYTES = 400_000
"""Largest size of a dictionary. All of them together fit into one hivemind message (4 MiB)."""
LEAST_GAP_MS = 900
"""Least gap between two records of one peer. Newer records within the gap are rejected."""
_RECORD_OVERHEAD = 80
"""Bytes that a dictionary adds per record: key, expiry, and their framing."""
_CONTEXT = b"announcement\x00"
_LARGEST = 2**53
_ADDRESS = re.compile(
    r"/(?:ip4/[0-9.]{7,15}|ip6/[0-9a-f:]{2,45}|dns[46]?/[A-Za-z0-9.-]{1,100})/(?:tcp|udp)/[0-9]{1,5}(?:/quic-v1)?"
    r"(?:/p2p/[1-9A-HJ-NP-Za-km-z]{46,52}/p2p-circuit)?"
)


class RecordRefused(Exception):
    """A record is invalid. The message gives the reason, but never the record's content."""


def need(right: bool, what: str) -> None:
    """Raise ``RecordRefused(what)`` unless ``right``."""
    if not right:
        raise RecordRefused(what)


@dataclass(frozen=True, slots=True)
class BundleRef:
    """A bundle that its author serves."""

    round: int
    stage: int
    sha256: bytes
    """32 bytes."""
    size: int
    """Bytes, 1 to ``MAX_BUNDLE_BYTES``."""
    groups: int
    """Groups in it, as its author claims."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a peer's signed record says about it."""

    peer: str
    """The id of the peer, which signed the record."""
    seq: int
    """When it was signed, in milliseconds since 1970. Increases with each record of a peer."""
    round: int
    step: int
    progress: int | None = None
    """The accuracy that the peer claims, in thousandths. None: unknown."""
    label: str = ""
    """Where the peer's rollouts come from, as text for display."""
    addresses: tuple[str, ...] = ()
    """The peer's addresses, without its peer id."""
    bundles: tuple[BundleRef, ...] = ()
    """The peer's bundles, newest last."""
    incarnation: Incarnation = UNCOUNTED
    """Which start of the peer's identity this is, so that two copies of a node notice each other."""
    version: int = VERSION

    @property
    def t(self) -> float:
        """When it was signed, Unix seconds."""
        return self.seq / 1000

    @property
    def expires(self) -> float:
        """When it expires in the DHT, Unix seconds. This follows from ``seq``, so no other peer can change it."""
        return self.seq / 1000 + LIFETIME_S

    def pack(self, identity: Identity, swarm: str) -> bytes:
        """Return the signed record. ``swarm``: the charter's id (hex); the signature is only valid in this swarm.

        Raises RecordRefused if peers would reject the record.
        """
        *said, version = astuple(self)
        body: bytes = msgpack.packb([version, *said])
        record = identity.sign(_signed(swarm, body)) + body
        _read(record)
        return record


def read(record: bytes, now: float) -> Announcement:
    """Decode ``record`` at time ``now`` (Unix seconds). Does not check the signature, which is the expensive part.

    Raises RecordRefused if the record is invalid, and no other exception, whatever a peer sends.
    """
    announcement = _read(record)
    need(announcement.t <= now + SKEW_S, "signed in the future")
    need(announcement.expires >= now - SKEW_S, "expired")
    return announcement


def check_signature(record: bytes, announcement: Announcement, swarm: str) -> None:
    """Raise RecordRefused unless the record's peer signed it for this swarm."""
    signature, body = record[:SIGNATURE_BYTES], record[SIGNATURE_BYTES:]
    need(verify(announcement.peer, _signed(swarm, body), signature), "invalid signature")


def next_seq(before: int, now: float) -> int:
    """Return the ``seq`` of a peer's next record, after ``before``, at time ``now`` (Unix seconds).

    If the peer's clock was set back, its last records are signed in the future. Others have refused them, and would
    refuse all later ones until then, so the numbers start again.
    """
    fresh = int(now * 1000)
    return fresh if before / 1000 > now + SKEW_S else max(fresh, before + int(LEAST_PAUSE_S * 1000))


def shard_of(peer: str) -> int:
    """Return the number of the dictionary that holds a peer's records, 0 to ``SHARDS`` - 1."""
    return hashlib.sha256(peer.encode()).digest()[0] % SHARDS


def shard_key(swarm: str, shard: int) -> bytes:
    """Return a dictionary's DHT key (20 bytes)."""
    return hashlib.sha1(f"swarm1 {swarm} announcements {shard}".encode(), usedforsecurity=False).digest()


def is_address(text: object) -> bool:
    """Whether ``text`` is an address that a node may dial."""
    return isinstance(text, str) and len(text) <= MAX_ADDRESS_CHARACTERS and _ADDRESS.fullmatch(text) is not None


def _signed(swarm: str, body: bytes) -> bytes:
    return _CONTEXT + bytes.fromhex(swarm) + body


def _read(record: bytes) -> Announcement:
    need(SIGNATURE_BYTES < len(record) <= MAX_BYTES, "invalid size")
    try:
        body = msgpack.unpackb(record[SIGNATURE_BYTES:], raw=False, use_list=True, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise RecordRefused("cannot be decoded") from error
    need(isinstance(body, list) and len(body) == 10, "invalid shape")
    version, peer, seq, round_, step, progress, label, addresses, bundles, incarnation = body
    need(version == VERSION and type(version) is int, "unknown version")
    need(isinstance(peer, str) and len(peer) == PEER_ID_CHARACTERS and is_peer_id(peer), "invalid peer id")
    need(all(_whole(number, 0, _LARGEST) for number in (seq, round_, step)), "invalid numbers")
    need(progress is None or _whole(progress, 0, 1000), "invalid progress")
    need(isinstance(label, str) and len(label) <= MAX_LABEL_CHARACTERS and label.isprintable(), "invalid label")
    few = isinstance(addresses, list) and len(addresses) <= MAX_ADDRESSES
    need(few and all(map(is_address, addresses)), "invalid addresses")
    need(isinstance(bundles, list) and len(bundles) <= MAX_BUNDLES, "invalid bundles")
    refs = tuple(map(_bundle, bundles))
    need(len({ref.sha256 for ref in refs}) == len(refs), "duplicate bundle")
    started = isinstance(incarnation, list) and len(incarnation) == 2
    need(started and all(_whole(number, 0, _LARGEST) for number in incarnation), "invalid incarnation")
    numbers = seq, round_, step, progress
    return Announcement(peer, *numbers, label, tuple(addresses), refs, Incarnation(*incarnation), version)


def _bundle(item: Any) -> BundleRef:
    need(isinstance(item, list) and len(item) == 5, "invalid bundle shape")
    round_, stage, sha256, size, groups = item
    numbers = _whole(round_, 0, _LARGEST) and _whole(stage, 0, MAX_STAGES - 1) and _whole(groups, 0, MAX_GROUPS)
    need(numbers, "invalid bundle numbers")
    need(_whole(size, 1, MAX_BUNDLE_BYTES), "invalid bundle size")
    need(isinstance(sha256, bytes) and len(sha256) == 32, "invalid bundle hash")
    return BundleRef(round_, stage, sha256, size, groups)


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


class AnnouncementBook:
    """The newest announcements of a swarm's peers."""

    def __init__(self, swarm: str, own: str, clock: Callable[[], float] = time.time) -> None:
        """``swarm``: the charter's id (hex); ``own``: this node's peer id."""
        self.keys = {shard_key(swarm, shard): shard for shard in range(SHARDS)}
        self._swarm, self._own, self._clock = swarm, own, clock
        self._entries: dict[str, tuple[bytes, Announcement]] = {}
        self._weights = [0] * SHARDS
        # Checking a signature takes 0.2 ms, so this limits checks to a tenth of a core, and to 100 ms at once.
        self._checks = TokenBucket(500, 500)
        self._swept = 0.0
        self.refused: Counter[str] = Counter()
        """How often records were rejected, by reason."""
        self.foreign: Announcement | None = None
        """The newest record with this node's peer id that this node did not issue; None if there is none."""
        self._issued: int = 0
        self.favoured: Collection[str] = ()
        """Peers whose records are checked even while new peers use up the signature checks."""

    def issue(self, record: bytes, announcement: Announcement) -> None:
        """Store this node's newest record."""
        self._issued = announcement.seq
        self._keep(record, announcement)

    def newest(self) -> list[tuple[bytes, Announcement]]:
        """Return the valid records with their announcements."""
        self._sweep()
        return list(self._entries.values())

    def get(self, peer: str) -> Announcement | None:
        """Return a peer's newest announcement, or None if it has expired or there is none."""
        _, announcement = self._entries.get(peer, (b"", None))
        return announcement if announcement is not None and announcement.expires > self._clock() else None

    def judge(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> bool:
        """Return whether a record may be stored in a DHT dictionary. If so, keep it as its peer's newest. Never raises.

        Args:
            key: the dictionary's key.
            subkey: msgpack of the peer's id.
            value: msgpack of the record's bytes.
            expires: Unix seconds.
        """
        try:
            self._judge(key, subkey, value, expires)
        except RecordRefused as error:
            self.refused[str(error)] += 1
            return False
        return True

    def _judge(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> None:
        need(key in self.keys, "unknown key")
        shard, record = self.keys[key], _record(value)
        peer = _peer(subkey)
        known_record, known = self._entries.get(peer, (b"", None))
        if known is not None and known_record == record:
            need(known.expires == expires, "expiry differs from the signed one")
            return
        announcement = read(record, self._clock())
        need(announcement.peer == peer and shard_of(peer) == shard, "stored under another peer's key")
        need(announcement.expires == expires, "expiry differs from the signed one")
        if known is None:
            # Peers that are already in a full dictionary stay, so that a crowd of new ones cannot push them out.
            if self._weights[shard] + len(record) + _RECORD_OVERHEAD > SHARD_BYTES:
                self._sweep()
            need(self._weights[shard] + len(record) + _RECORD_OVERHEAD <= SHARD_BYTES, "no room for more peers")
        else:
            need(announcement.seq >= known.seq + LEAST_GAP_MS, "not newer than the known record")
        stranger = known is None and peer not in self.favoured
        need(self._checks.take(keep=250 if stranger else 0), "too many signatures to check")
        check_signature(record, announcement, self._swarm)
        if peer == self._own and announcement.seq > self._issued:
            self.foreign = announcement
            raise RecordRefused("this node's peer id")
        self._keep(record, announcement)

    def _keep(self, record: bytes, announcement: Announcement) -> None:
        peer = announcement.peer
        self._forget(peer)
        self._entries[peer] = record, announcement
        self._weights[shard_of(peer)] += len(record) + _RECORD_OVERHEAD

    def _forget(self, peer: str) -> None:
        if peer in self._entries:
            record, _ = self._entries.pop(peer)
            self._weights[shard_of(peer)] -= len(record) + _RECORD_OVERHEAD

    def _sweep(self) -> None:
        now = self._clock()
        if abs(now - self._swept) < 1.0:  # the clock may have been set back
            return
        self._swept = now
        for peer in [peer for peer, (_, newest) in self._entries.items() if newest.expires < now - SKEW_S]:
            self._forget(peer)


def _record(value: bytes) -> bytes:
    """Decode msgpack by hand, because only bytes are allowed here: no other type, however deeply nested."""
    if len(value) > 2 and value[0] == 0xC4 and value[1] == len(value) - 2:
        return value[2:]
    if 3 < len(value) <= MAX_BYTES + 3 and value[0] == 0xC5 and int.from_bytes(value[1:3], "big") == len(value) - 3:
        return value[3:]
    raise RecordRefused("value is not a record")


def _peer(subkey: bytes) -> str:
    """Decode msgpack by hand: a string with the length of a peer id."""
    peer, head = subkey[2:], bytes((0xD9, PEER_ID_CHARACTERS))
    right = len(peer) == PEER_ID_CHARACTERS and subkey[:2] == head and peer.isascii()
    need(right, "subkey is not a peer id")
    return peer.decode()
