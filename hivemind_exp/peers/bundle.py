"""What a node shares of a round or stage: whole groups of its rollouts, as text. Hostile until read by ``unpack``.

A bundle is msgpack, arrays of fixed length throughout, so that there is no place for an unknown field:
``[version, swarm, peer, round, stage, [group, …]]``, each group ``[task, index, question, kind, label, outcomes, cut,
[text, …], [ids, …], [logps, …]]``. Numbers of tokens are packed as bytes. It is not signed itself: the signed
announcement holds its SHA-256, and ``unpack`` checks that it names the same peer and swarm.

Reading is driven by the format: nothing is built that the format has no place for, whatever the bytes claim. The pool
keeps what was read until it is used or too old: bounded in peers, bundles and bytes, whoever sends how much.
"""

from __future__ import annotations

import math
import struct
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

FORMAT = 1
LARGEST_BUNDLE = 2 * 2**20
"""Bytes of a bundle."""
MOST_GROUPS = 64
"""Groups in a bundle."""
MOST_COMPLETIONS = 128
"""Completions of a group."""
LONGEST_TEXT = 65_536
"""Bytes (UTF-8) of a completion."""
LONGEST_NAME = 200
"""Bytes of a task's, stage's or model's name."""
MOST_TOKENS = 32_768
"""Tokens of a completion that is shared with its log-probabilities."""
LARGEST_ROUND = 2**40
FULL = 1000
"""The outcome 1.0: outcomes are shared in thousandths."""
KINDS = ("policy", "policy_text", "teacher", "relay")
"""What a peer may say of where its text comes from (``rollouts.types.Kind``). It cannot be verified."""
RECENT_S = 900.0
"""Seconds after which a bundle is too old to be used."""
BUNDLES_A_PEER = 64
"""Bundles kept of one peer, the latest: a fast node shares many within one stage of a study group."""
OFFERED = 4
"""Bundles of one peer whose groups are offered, the latest: text grows stale."""
MOST_BYTES = 64 * 2**20
"""Of all bundles together."""


class BundleRefused(ValueError):
    """The bytes are no bundle of that peer and swarm. The message is ours: nothing of the bytes stands in it."""


def _need(right: bool, what: str) -> None:
    if not right:
        raise BundleRefused(what)


@dataclass(frozen=True, slots=True)
class SharedGroup:
    """All completions of one question, as one node shares them."""

    task: str
    index: int
    """Place of the question in its round."""
    question: str
    """Digest (hex) of the question: the text itself is made by whoever reads it."""
    kind: str
    """One of ``KINDS``."""
    label: str
    """Which model made it, as the peer says; may be empty."""
    outcomes: tuple[int, ...]
    """Rewards in thousandths, as the peer claims."""
    cut: tuple[bool, ...]
    """Which completions were cut at the length limit."""
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...] = ()
    """Token ids of each completion; empty unless log-probabilities are shared."""
    logps: tuple[tuple[float, ...], ...] = ()
    """Log-probabilities of those tokens under the weights that sampled them."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one node shares of one round and stage."""

    swarm: str
    """Id (hex) of the charter."""
    peer: str
    round: int
    stage: str
    groups: tuple[SharedGroup, ...]

    def pack(self) -> bytes:
        """Return the bundle as bytes. Raises ``BundleRefused`` where it exceeds what readers take."""
        groups = [_pack_group(group) for group in self.groups]
        body = [FORMAT, bytes.fromhex(self.swarm), self.peer, self.round, self.stage, groups]
        packed: bytes = msgpack.packb(body, unicode_errors="replace")
        if len(packed) > LARGEST_BUNDLE or len(groups) > MOST_GROUPS:
            raise BundleRefused(f"a bundle of {len(packed)} bytes and {len(groups)} groups is too large to share")
        return packed


def pack_fitting(bundle: Bundle) -> tuple[bytes, int]:
    """Return the bundle with as many of its groups, from the first, as a bundle holds, and how many those are."""
    kept, room = 0, LARGEST_BUNDLE - 1024
    for group in bundle.groups[:MOST_GROUPS]:
        room -= len(msgpack.packb(_pack_group(group), unicode_errors="replace"))
        if room < 0:
            break
        kept += 1
    return replace(bundle, groups=bundle.groups[:kept]).pack(), kept


def unpack(data: bytes, *, peer: str, swarm: str) -> Bundle:
    """Read the bundle that ``peer`` announced.

    Raises:
        BundleRefused: for whatever is not exactly a bundle of that peer in that swarm. Nothing else is ever raised.
    """
    _need(len(data) <= LARGEST_BUNDLE, "more bytes than a bundle may have")
    try:
        reader = _Reader(data)
        reader.fixed(6)
        _need(reader.integer(2**16) == FORMAT, "another version of the format")
        _need(reader.blob(32) == bytes.fromhex(swarm), "of another swarm")
        _need(reader.text(LONGEST_NAME) == peer, "of another peer than announced it")
        round_, stage = reader.integer(LARGEST_ROUND), reader.text(LONGEST_NAME)
        groups = tuple(_read_group(reader) for _ in range(reader.array(MOST_GROUPS)))
        reader.end()
        _need(len({(group.task, group.question) for group in groups}) == len(groups), "one question twice")
        return Bundle(swarm, peer, round_, stage, groups)
    except BundleRefused:
        raise
    except (ValueError, TypeError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise BundleRefused("no bundle") from error


def _read_group(reader: _Reader) -> SharedGroup:
    reader.fixed(10)
    task, index, question = reader.text(LONGEST_NAME), reader.integer(2**31), reader.blob(32)
    kind, label = reader.text(LONGEST_NAME), reader.text(LONGEST_NAME)
    outcomes = _unpacked("H", reader.blob(2 * MOST_COMPLETIONS))
    cut = tuple(map(bool, reader.blob(MOST_COMPLETIONS)))
    texts = tuple(reader.text(LONGEST_TEXT) for _ in range(reader.array(MOST_COMPLETIONS)))
    ids = tuple(_unpacked("I", reader.blob(4 * MOST_TOKENS)) for _ in range(reader.array(MOST_COMPLETIONS)))
    logps = tuple(_unpacked("f", reader.blob(4 * MOST_TOKENS)) for _ in range(reader.array(MOST_COMPLETIONS)))
    group = SharedGroup(task, index, question.hex(), kind, label, outcomes, cut, texts, ids, logps)
    _check(group, len(question))
    return group


def _check(group: SharedGroup, digest: int) -> None:
    count = len(group.texts)
    whole = count and len(group.outcomes) == len(group.cut) == count and digest == 32
    _need(bool(whole), "a group whose parts do not fit together")
    _need(group.kind in KINDS and max(group.outcomes) <= FULL, "a group of no known kind, or outcomes above 1")
    if group.ids or group.logps:
        lengths = [len(row) for row in group.ids]
        fit = len(lengths) == count and lengths == [len(row) for row in group.logps] and 0 not in lengths
        _need(fit, "log-probabilities that do not fit the tokens")
        numbers = all(math.isfinite(value) and value <= 0 for row in group.logps for value in row)
        _need(numbers, "log-probabilities that are none")


def _pack_group(group: SharedGroup) -> list[object]:
    return [
        group.task,
        group.index,
        bytes.fromhex(group.question),
        group.kind,
        group.label,
        _packed("H", group.outcomes),
        bytes(group.cut),
        list(group.texts),
        [_packed("I", row) for row in group.ids],
        [_packed("f", [min(value, 0.0) for value in row]) for row in group.logps],
    ]


def _packed(code: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


def _unpacked(code: str, data: bytes) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{code}")
    _need(len(data) % size == 0, "numbers that are cut off")
    return struct.unpack(f"<{len(data) // size}{code}", data)


class _Reader:
    """Reads what is expected, piece by piece, and nothing else: no array, map or extension is ever built."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(1, len(data)), max_array_len=0, max_map_len=0, max_ext_len=0, strict_map_key=True
        )
        self._unpacker.feed(data)

    def array(self, most: int) -> int:
        """Return the length of the array that begins here."""
        length: int = self._unpacker.read_array_header()
        _need(length <= most, "an array that is too long")
        return length

    def fixed(self, length: int) -> None:
        _need(self.array(length) == length, "an array of another length")

    def integer(self, below: int) -> int:
        value: int = self._unpacker.unpack()
        _need(type(value) is int and 0 <= value < below, "a number out of bounds")
        return value

    def text(self, longest: int) -> str:
        value: str = self._unpacker.unpack()
        _need(type(value) is str and len(value.encode()) <= longest, "no text, or one that is too long")
        return value

    def blob(self, longest: int) -> bytes:
        value: bytes = self._unpacker.unpack()
        _need(type(value) is bytes and len(value) <= longest, "no bytes, or too many")
        return value

    def end(self) -> None:
        _need(self._unpacker.tell() == self._size, "bytes after the end")


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A group that may be drawn."""

    peer: str
    round: int
    stage: str
    group: SharedGroup


@dataclass(slots=True, eq=False)
class _Kept:
    bundle: Bundle
    size: int
    since: float
    unused: list[SharedGroup]


class BundlePool:
    """What came from peers lately. For use from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_bytes: int = MOST_BYTES) -> None:
        self._clock, self._most_bytes = clock, most_bytes
        self._peers: dict[str, deque[_Kept]] = {}

    @property
    def size(self) -> int:
        """Bytes of the bundles that are kept."""
        return sum(kept.size for bundles in self._peers.values() for kept in bundles)

    def put(self, bundle: Bundle, size: int) -> None:
        """Keep a bundle of ``size`` bytes; one of the same peer with the same questions gives way to it."""
        kept = self._peers.setdefault(bundle.peer, deque(maxlen=BUNDLES_A_PEER))
        asked = {group.question for group in bundle.groups}
        for old in [each for each in kept if (each.bundle.round, each.bundle.stage) == (bundle.round, bundle.stage)]:
            if any(group.question in asked for group in old.bundle.groups):  # as after a restart
                kept.remove(old)
        kept.append(_Kept(bundle, size, self._clock(), list(bundle.groups)))
        self._forget_old()
        while self.size > self._most_bytes:
            # Who takes most room gives way first, so that nobody is pushed out by another's flood.
            fullest = max(self._peers, key=lambda peer: sum(each.size for each in self._peers[peer]))
            self._peers[fullest].popleft()
            self._forget_empty()

    def offers(self, stage: str) -> dict[str, list[Offer]]:
        """Return the unused groups of a stage's latest bundles, by peer, the latest first."""
        self._forget_old()
        found: defaultdict[str, list[Offer]] = defaultdict(list)
        for peer, bundles in self._peers.items():
            for kept in [each for each in reversed(bundles) if each.bundle.stage == stage][:OFFERED]:
                found[peer] += [Offer(peer, kept.bundle.round, stage, group) for group in kept.unused]
        return {peer: offers for peer, offers in found.items() if offers}

    def discard(self, offer: Offer) -> None:
        for kept in self._peers.get(offer.peer, ()):
            kept.unused = [group for group in kept.unused if group is not offer.group]

    def discard_peer(self, peer: str) -> None:
        self._peers.pop(peer, None)

    def bundles(self, round_: int, stage: str) -> Iterator[Bundle]:
        """Yield the bundles of one round and stage, used or not."""
        for bundles in self._peers.values():
            for kept in bundles:
                if (kept.bundle.round, kept.bundle.stage) == (round_, stage):
                    yield kept.bundle

    def _forget_old(self) -> None:
        oldest = self._clock() - RECENT_S
        for bundles in self._peers.values():
            while bundles and bundles[0].since < oldest:
                bundles.popleft()
        self._forget_empty()

    def _forget_empty(self) -> None:
        for peer in [peer for peer, bundles in self._peers.items() if not bundles]:
            del self._peers[peer]
