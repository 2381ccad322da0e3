"""What a peer says about itself in the DHT: a small signed record, the same for every reader.

A record is 64 bytes of signature and a msgpack array::

    [version, peer, seq, round, step, progress, label, [address, …], [[round, stage, sha256, size, groups], …]]

Everything else is refused: other fields, other types, other lengths. Nothing here imports hivemind or torch.
"""

import hashlib
import re
from dataclasses import astuple, dataclass
from typing import Any

import msgpack

from hivemind_exp.swarm.identity import PEER_ID_CHARACTERS, SIGNATURE_BYTES, Identity, is_peer_id, verify

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


def unpack(record: bytes, swarm: str, now: float, *, peer: str | None = None) -> Announcement:
    """Return what ``record`` says, signed by its peer for this swarm.

    Args:
        now: Unix seconds.
        peer: whose it must be, if that is known.

    Raises:
        RecordRefused: whatever else it is. Nothing that a peer sends raises anything else.
    """
    announcement = read(record, now)
    need(peer in (None, announcement.peer), "it speaks for another peer")
    check_signature(record, announcement, swarm)
    return announcement


def read(record: bytes, now: float) -> Announcement:
    """As ``unpack``, without the signature, which costs most. Raises RecordRefused."""
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
