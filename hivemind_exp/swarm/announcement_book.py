"""Every peer's newest announcement, as far as this node has seen a valid one. The judge of all records.

Records come from anybody: stored here by peers, read from their dictionaries, handed over by nodes that leave.
Whatever is not a newer record of the very peer whose place it takes, signed by that peer for this swarm, is refused.
Memory, and the time that goes into signatures, have bounds that no peer can move. Nothing here imports hivemind.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection

import msgpack

from hivemind_exp.swarm.announcement import (
    MAX_BYTES,
    SHARDS,
    SKEW_S,
    Announcement,
    RecordRefused,
    check_signature,
    need,
    read,
    shard_key,
    shard_of,
)
from hivemind_exp.swarm.identity import PEER_ID_CHARACTERS
from hivemind_exp.swarm.token_bucket import TokenBucket

SHARD_BYTES = 400_000
"""What a dictionary may weigh, so that all of them fit one message of hivemind's (4 MiB)."""
LEAST_GAP_MS = 900
"""Between two records of one peer: more often, they are noise."""
_RECORD_OVERHEAD = 80
"""Bytes that a dictionary adds to a record: its key, its expiry, their frames."""


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
            self._make_room(shard, len(record))
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

    def _make_room(self, shard: int, size: int) -> None:
        """Raise RecordRefused where a dictionary is full. Who is in it stays: no crowd of new names pushes them out."""
        if self._weights[shard] + size + _RECORD_OVERHEAD > SHARD_BYTES:
            self._sweep()
            need(self._weights[shard] + size + _RECORD_OVERHEAD <= SHARD_BYTES, "no room for more peers")

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept < 1.0:
            return
        self._swept = now
        for peer in [peer for peer, (_, word) in self._entries.items() if word.expires < now - SKEW_S]:
            self._forget(peer)


def packed(record: bytes) -> bytes:
    """Return a record as the value of a dictionary's place."""
    return bytes(msgpack.packb(record))


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
