"""What a peer says about itself in the DHT: a small signed record, the same for every reader.

A record is 64 bytes of signature and a msgpack array::

    [version, peer, seq, round, step, progress, label, [address, …], [[round, stage, sha256, size, groups], …]]

Everything else is refused: other fields, other types, other lengths. Nothing here imports hivemind or torch.
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
from hivemind_exp.swarm.token_bucket import TokenBucket

VERSION = 1
LIFETIME_S = 600
"""A record expires this long after it was signed. Longer than any pause between two of them, short enough that the dead
are forgotten."""
SKEW_S = 10.0
"""How far into the future a record may be signed: clocks differ."""
LEAST_PAUSE_S = 1.0
"""Between two records of one peer. More often would be noise."""
MAX_BYTES = 4096
"""Of a record with its signature. Usual ones take 300 to 700."""
MAX_BUNDLES = 8
MAX_BUNDLE_BYTES = 2 * 1024 * 1024
MAX_GROUPS = 4096
MAX_STAGES = 16
MAX_ADDRESSES = 4
MAX_ADDRESS_CHARACTERS = 160
MAX_LABEL_CHARACTERS = 64
SHARDS = 8
"""Dictionaries over which the records of a swarm are spread: each is read and handed over as a whole."""

SHARD_BYTES = 400_000
"""What a dictionary may weigh, so that all of them fit one message of hivemind's (4 MiB)."""
LEAST_GAP_MS = 900
"""Between two records of one peer: more often, they are noise."""
_RECORD_OVERHEAD = 80
"""Bytes that a dictionary adds to a record: its key, its expiry, their frames."""
_CONTEXT = b"announcement\x00"
_LARGEST = 2**53
_ADDRESS = re.compile(
    r"/(?:ip4/[0-9.]{7,15}|ip6/[0-9a-f:]{2,45}|dns[46]?/[A-Za-z0-9.-]{1,100})/(?:tcp|udp)/[0-9]{1,5}(?:/quic-v1)?"
    r"(?:/p2p/[1-9A-HJ-NP-Za-km-z]{46,52}/p2p-circuit)?"
)


class RecordRefused(Exception):
    """A record says something that none may say. Its text names what, never the content."""


def need(right: bool, what: str) -> None:
    """Raise RecordRefused, naming ``what``, unless that is right."""
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
    """Groups of completions in it, as its author says."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A peer's newest word about itself."""

    peer: str
    """Its peer id, which signed this."""
    seq: int
    """When it was signed, in milliseconds since 1970. Grows from one record to the next."""
    round: int
    step: int
    progress: int | None = None
    """Its own accuracy in thousandths, as it says. None: not known."""
    label: str = ""
    """Where its rollouts come from, for people."""
    addresses: tuple[str, ...] = ()
    """Where it can be reached, without its peer id."""
    bundles: tuple[BundleRef, ...] = ()
    """The newest last."""
    version: int = VERSION

    @property
    def t(self) -> float:
        """When it was signed, Unix seconds."""
        return self.seq / 1000

    @property
    def expires(self) -> float:
        """When the DHT forgets it, Unix seconds. Follows from ``seq``: nobody else can lengthen or shorten it."""
        return self.seq / 1000 + LIFETIME_S

    def pack(self, identity: Identity, swarm: str) -> bytes:
        """Return the signed record. ``swarm``: the charter's id (hex), without which the signature means nothing.

        Raises RecordRefused where no peer would take it.
        """
        *said, version = astuple(self)
        body: bytes = msgpack.packb([version, *said])
        record = identity.sign(_signed(swarm, body)) + body
        _read(record)
        return record


def read(record: bytes, now: float) -> Announcement:
    """Return what ``record`` says at ``now`` (Unix seconds), without a look at its signature, which costs most.

    Raises RecordRefused for whatever else it is. Nothing that a peer sends raises anything else.
    """
    announcement = _read(record)
    need(announcement.t <= now + SKEW_S, "it is from the future")
    need(announcement.expires >= now - SKEW_S, "it has expired")
    return announcement


def check_signature(record: bytes, announcement: Announcement, swarm: str) -> None:
    """Raise RecordRefused unless the record's peer signed it for this swarm."""
    signature, body = record[:SIGNATURE_BYTES], record[SIGNATURE_BYTES:]
    need(verify(announcement.peer, _signed(swarm, body), signature), "the signature is not its peer's")


def shard_of(peer: str) -> int:
    """Return the dictionary in which a peer's records are, 0 to ``SHARDS`` - 1."""
    return hashlib.sha256(peer.encode()).digest()[0] % SHARDS


def shard_key(swarm: str, shard: int) -> bytes:
    """Return the DHT's key (20 bytes) of a dictionary."""
    return hashlib.sha1(f"swarm1 {swarm} announcements {shard}".encode(), usedforsecurity=False).digest()


def is_address(text: object) -> bool:
    """Whether ``text`` is an address that one may dial."""
    return isinstance(text, str) and len(text) <= MAX_ADDRESS_CHARACTERS and _ADDRESS.fullmatch(text) is not None


def _signed(swarm: str, body: bytes) -> bytes:
    return _CONTEXT + bytes.fromhex(swarm) + body


def _read(record: bytes) -> Announcement:
    need(SIGNATURE_BYTES < len(record) <= MAX_BYTES, "its size")
    try:
        body = msgpack.unpackb(record[SIGNATURE_BYTES:], raw=False, use_list=True, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise RecordRefused("it cannot be decoded") from error
    need(isinstance(body, list) and len(body) == 9, "its shape")
    version, peer, seq, round_, step, progress, label, addresses, bundles = body
    need(version == VERSION and type(version) is int, "its version")
    need(isinstance(peer, str) and len(peer) == PEER_ID_CHARACTERS and is_peer_id(peer), "its peer")
    need(all(_whole(number, 0, _LARGEST) for number in (seq, round_, step)), "its numbers")
    need(progress is None or _whole(progress, 0, 1000), "its progress")
    need(isinstance(label, str) and len(label) <= MAX_LABEL_CHARACTERS and label.isprintable(), "its label")
    few = isinstance(addresses, list) and len(addresses) <= MAX_ADDRESSES
    need(few and all(map(is_address, addresses)), "its addresses")
    need(isinstance(bundles, list) and len(bundles) <= MAX_BUNDLES, "its bundles")
    refs = tuple(map(_bundle, bundles))
    need(len({ref.sha256 for ref in refs}) == len(refs), "a bundle twice")
    return Announcement(peer, seq, round_, step, progress, label, tuple(addresses), refs, version)


def _bundle(item: Any) -> BundleRef:
    need(isinstance(item, list) and len(item) == 5, "a bundle's shape")
    round_, stage, sha256, size, groups = item
    numbers = _whole(round_, 0, _LARGEST) and _whole(stage, 0, MAX_STAGES - 1) and _whole(groups, 0, MAX_GROUPS)
    need(numbers, "a bundle's numbers")
    need(_whole(size, 1, MAX_BUNDLE_BYTES), "a bundle's size")
    need(isinstance(sha256, bytes) and len(sha256) == 32, "a bundle's hash")
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
        # A signature takes 0.2 ms to check: this is at most a tenth of a core, and 100 ms without a pause.
        self._checks = TokenBucket(500, 500)
        self._swept = 0.0
        self.refused: Counter[str] = Counter()
        """Why records were refused, and how often."""
        self.foreign_seq: int | None = None
        """``seq`` of the newest record that bears this node's name and is none of its own, once there was one."""
        self._issued: int = 0
        self.favoured: Collection[str] = ()
        """Peers whose records are checked even while strangers use up the checks."""

    def issue(self, record: bytes, announcement: Announcement) -> None:
        """Take this node's own newest record."""
        self._issued = announcement.seq
        self._keep(record, announcement)

    def newest(self) -> list[tuple[bytes, Announcement]]:
        """Return the valid records, with what they say."""
        self._sweep()
        return list(self._entries.values())

    def get(self, peer: str) -> Announcement | None:
        """Return a peer's newest word, if it has not expired."""
        _, word = self._entries.get(peer, (b"", None))
        return word if word is not None and word.expires > self._clock() else None

    def judge(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> bool:
        """Whether a record may stand in a dictionary of the DHT. Never raises, and remembers the record if so.

        Args:
            key: the dictionary's.
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
        need(key in self.keys, "an unknown key")
        shard, record = self.keys[key], _record(value)
        peer = _peer(subkey)
        known_record, known = self._entries.get(peer, (b"", None))
        if known is not None and known_record == record:
            need(known.expires == expires, "another expiry than it was signed with")
            return
        announcement = read(record, self._clock())
        need(announcement.peer == peer and shard_of(peer) == shard, "a place that is not its peer's")
        need(announcement.expires == expires, "another expiry than it was signed with")
        if known is None:
            # Who is in a dictionary that is full stays: no crowd of new names pushes them out.
            if self._weights[shard] + len(record) + _RECORD_OVERHEAD > SHARD_BYTES:
                self._sweep()
            need(self._weights[shard] + len(record) + _RECORD_OVERHEAD <= SHARD_BYTES, "no room for more peers")
        else:
            need(announcement.seq >= known.seq + LEAST_GAP_MS, "no newer than what is known")
        stranger = known is None and peer not in self.favoured
        need(self._checks.take(keep=250 if stranger else 0), "too many signatures to check")
        check_signature(record, announcement, self._swarm)
        if peer == self._own and announcement.seq > self._issued:
            self.foreign_seq = announcement.seq
            raise RecordRefused("this node's name")
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
        if now - self._swept < 1.0:
            return
        self._swept = now
        for peer in [peer for peer, (_, word) in self._entries.items() if word.expires < now - SKEW_S]:
            self._forget(peer)


def _record(value: bytes) -> bytes:
    """Read msgpack of bytes by hand: nothing else may stand there, however it is nested."""
    if len(value) > 2 and value[0] == 0xC4 and value[1] == len(value) - 2:
        return value[2:]
    if 3 < len(value) <= MAX_BYTES + 3 and value[0] == 0xC5 and int.from_bytes(value[1:3], "big") == len(value) - 3:
        return value[3:]
    raise RecordRefused("a value that is no record")


def _peer(subkey: bytes) -> str:
    """Read msgpack of a string as long as a peer id by hand."""
    peer, head = subkey[2:], bytes((0xD9, PEER_ID_CHARACTERS))
    right = len(peer) == PEER_ID_CHARACTERS and subkey[:2] == head and peer.isascii()
    need(right, "a place that is not a peer's")
    return peer.decode()
