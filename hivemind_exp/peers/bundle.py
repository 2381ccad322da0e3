"""Bundles: the whole groups of rollouts that a node shares from one round and stage, as text.

A bundle's bytes are untrusted until ``unpack`` has read them. A bundle is msgpack and consists of arrays of fixed
length, so unknown fields are impossible:
``[version, swarm, peer, round, stage, [group, …]]``, each group ``[task, index, question, kind, label, outcomes, cut,
[text, …], [ids, …], [logps, …]]``. In version 2, used only if a group has a level of difficulty, each group ends with
it: 0 for the task's own parameters, or the number of the charter's level, counted from 1. Outcomes, token ids and
log-probabilities are packed as bytes. The bundle itself is not signed: the signed announcement holds its SHA-256, and
``unpack`` checks that the bundle names the same peer and swarm.

The format drives the reading: whatever the bytes claim, only objects that the format allows are built. The pool keeps
bundles until they are used or too old. Its size in peers, bundles and bytes is bounded, however much anyone sends.
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

FORMAT, WITH_LEVELS = 1, 2
LARGEST_BUNDLE = 2 * 2**20
"""Maximum number of bytes in a bundle."""
MOST_GROUPS = 64
"""Maximum number of groups in a bundle."""
MOST_COMPLETIONS = 128
"""Maximum number of completions in a group."""
LONGEST_TEXT = 65_536
"""Maximum number of bytes (UTF-8) in a completion."""
LONGEST_NAME = 200
"""Maximum number of bytes in the name of a task, stage or model."""
MOST_TOKENS = 32_768
"""Maximum number of tokens in a completion that is shared with its log-probabilities."""
LARGEST_ROUND = 2**40
FULL = 1000
"""The outcome 1.0 in thousandths, the unit in which outcomes are shared."""
KINDS = ("policy", "policy_text", "teacher", "relay")
"""The kinds (``source_kinds.Kind``) that a peer may claim for its text. The claim cannot be verified."""
RECENT_S = 900.0
"""Age, in seconds, above which a bundle is too old to use."""
BUNDLES_A_PEER = 64
"""Maximum number of bundles kept per peer: the latest ones. A fast node shares many within one stage of a study
group."""
OFFERED = 4
"""Maximum number of bundles per peer whose groups are offered: the latest ones. Older text is stale."""
MOST_BYTES = 64 * 2**20
"""Maximum number of bytes in all bundles together."""


class BundleRefused(ValueError):
    """The bytes are not a valid bundle from that peer for that swarm. The message never quotes the bytes."""


def _need(right: bool, what: str) -> None:
    if not right:
        raise BundleRefused(what)


@dataclass(frozen=True, slots=True)
class SharedGroup:
    """All completions of one question, as shared by one node."""

    task: str
    index: int
    """The question's position in its round."""
    question: str
    """The question's digest (hex). Each reader generates the text itself."""
    kind: str
    """One of ``KINDS``."""
    label: str
    """The model that generated it, as claimed by the peer. May be empty."""
    outcomes: tuple[int, ...]
    """Rewards in thousandths, as the peer claims."""
    cut: tuple[bool, ...]
    """Whether each completion was cut at the length limit."""
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...] = ()
    """Token ids of each completion; empty unless log-probabilities are shared."""
    logps: tuple[tuple[float, ...], ...] = ()
    """Log-probabilities of those tokens under the weights that sampled them."""
    level: int | None = None
    """The question's level of difficulty in the charter, from 0; None for the task's own parameters."""

    @property
    def called_wrong(self) -> bool:
        """Whether the peer itself says that all completions are wrong, so that nobody learns from them."""
        return not any(self.outcomes)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The groups that one node shares from one round and stage."""

    swarm: str
    """Id (hex) of the charter."""
    peer: str
    round: int
    stage: str
    groups: tuple[SharedGroup, ...]

    def pack(self) -> bytes:
        """Return the bundle as bytes. Raises ``BundleRefused`` if readers would reject it as too large."""
        version = FORMAT if all(group.level is None for group in self.groups) else WITH_LEVELS
        groups = [_pack_group(group, version) for group in self.groups]
        body = [version, bytes.fromhex(self.swarm), self.peer, self.round, self.stage, groups]
        packed: bytes = msgpack.packb(body, unicode_errors="replace")
        if len(packed) > LARGEST_BUNDLE or len(groups) > MOST_GROUPS:
            raise BundleRefused(f"a bundle of {len(packed)} bytes and {len(groups)} groups is too large to share")
        return packed


def pack_fitting(bundle: Bundle) -> tuple[bytes, int]:
    """Pack as many of the groups as fit, starting with the first. Returns the bytes and the number of groups."""
    kept, room = 0, LARGEST_BUNDLE - 1024
    for group in bundle.groups[:MOST_GROUPS]:
        room -= len(msgpack.packb(_pack_group(group, WITH_LEVELS), unicode_errors="replace"))
        if room < 0:
            break
        kept += 1
    return replace(bundle, groups=bundle.groups[:kept]).pack(), kept


def unpack(data: bytes, *, peer: str, swarm: str) -> Bundle:
    """Read the bundle that ``peer`` announced.

    Raises:
        BundleRefused: the bytes are not exactly a bundle from that peer for that swarm. Raises nothing else.
    """
    _need(len(data) <= LARGEST_BUNDLE, "bundle: too many bytes")
    try:
        reader = _Reader(data)
        reader.fixed(6)
        version = reader.integer(2**16)
        _need(version in (FORMAT, WITH_LEVELS), "bundle: unknown format version")
        _need(reader.blob(32) == bytes.fromhex(swarm), "bundle: belongs to another swarm")
        _need(reader.text(LONGEST_NAME) == peer, "bundle: names a different peer")
        round_, stage = reader.integer(LARGEST_ROUND), reader.text(LONGEST_NAME)
        groups = tuple(_read_group(reader, version) for _ in range(reader.array(MOST_GROUPS)))
        reader.end()
        _need(
            len({(group.task, group.question) for group in groups}) == len(groups), "bundle: contains a question twice"
        )
        return Bundle(swarm, peer, round_, stage, groups)
    except BundleRefused:
        raise
    except (ValueError, TypeError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise BundleRefused("bundle: cannot be decoded") from error


def _read_group(reader: _Reader, version: int) -> SharedGroup:
    reader.fixed(10 if version == FORMAT else 11)
    task, index, question = reader.text(LONGEST_NAME), reader.integer(2**31), reader.blob(32)
    kind, label = reader.text(LONGEST_NAME), reader.text(LONGEST_NAME)
    outcomes = _unpacked("H", reader.blob(2 * MOST_COMPLETIONS))
    cut = tuple(map(bool, reader.blob(MOST_COMPLETIONS)))
    texts = tuple(reader.text(LONGEST_TEXT) for _ in range(reader.array(MOST_COMPLETIONS)))
    ids = tuple(_unpacked("I", reader.blob(4 * MOST_TOKENS)) for _ in range(reader.array(MOST_COMPLETIONS)))
    logps = tuple(_unpacked("f", reader.blob(4 * MOST_TOKENS)) for _ in range(reader.array(MOST_COMPLETIONS)))
    level = 0 if version == FORMAT else reader.integer(2**8)
    group = SharedGroup(
        task, index, question.hex(), kind, label, outcomes, cut, texts, ids, logps, level - 1 if level else None
    )
    _check(group, len(question))
    return group


def _check(group: SharedGroup, digest: int) -> None:
    count = len(group.texts)
    whole = count and len(group.outcomes) == len(group.cut) == count and digest == 32
    _need(bool(whole), "bundle: group with inconsistent parts")
    _need(group.kind in KINDS and max(group.outcomes) <= FULL, "bundle: unknown kind, or outcome above 1")
    if group.ids or group.logps:
        lengths = [len(row) for row in group.ids]
        fit = len(lengths) == count and lengths == [len(row) for row in group.logps] and 0 not in lengths
        _need(fit, "bundle: log-probabilities do not match the tokens")
        numbers = all(math.isfinite(value) and value <= 0 for row in group.logps for value in row)
        _need(numbers, "bundle: invalid log-probabilities")


def _pack_group(group: SharedGroup, version: int) -> list[object]:
    packed: list[object] = [
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
    return packed if version == FORMAT else [*packed, 0 if group.level is None else group.level + 1]


def _packed(code: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


def _unpacked(code: str, data: bytes) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{code}")
    _need(len(data) % size == 0, "bundle: truncated numbers")
    return struct.unpack(f"<{len(data) // size}{code}", data)


class _Reader:
    """Reads the expected values one by one. Never builds an array, map or extension."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(1, len(data)), max_array_len=0, max_map_len=0, max_ext_len=0, strict_map_key=True
        )
        self._unpacker.feed(data)

    def array(self, most: int) -> int:
        """Return the length of the array that starts here."""
        length: int = self._unpacker.read_array_header()
        _need(length <= most, "bundle: array too long")
        return length

    def fixed(self, length: int) -> None:
        _need(self.array(length) == length, "bundle: array of wrong length")

    def integer(self, below: int) -> int:
        value: int = self._unpacker.unpack()
        _need(type(value) is int and 0 <= value < below, "bundle: number out of range")
        return value

    def text(self, longest: int) -> str:
        value: str = self._unpacker.unpack()
        _need(type(value) is str and len(value.encode()) <= longest, "bundle: text missing or too long")
        return value

    def blob(self, longest: int) -> bytes:
        value: bytes = self._unpacker.unpack()
        _need(type(value) is bytes and len(value) <= longest, "bundle: byte string missing or too long")
        return value

    def end(self) -> None:
        _need(self._unpacker.tell() == self._size, "bundle: trailing bytes")


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A group available for drawing."""

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
    """The bundles that arrived from peers recently. Use it from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_bytes: int = MOST_BYTES) -> None:
        self._clock, self._most_bytes = clock, most_bytes
        self._peers: dict[str, deque[_Kept]] = {}

    @property
    def size(self) -> int:
        """Total bytes of the kept bundles."""
        return sum(kept.size for bundles in self._peers.values() for kept in bundles)

    def put(self, bundle: Bundle, size: int) -> None:
        """Keep a bundle of ``size`` bytes.

        It replaces the peer's earlier bundles of the same round and stage that share a question with it. Groups that
        the peer calls all wrong are not offered: while correct answers are rare, they would use up a draw's tries.
        """
        kept = self._peers.setdefault(bundle.peer, deque(maxlen=BUNDLES_A_PEER))
        asked = {group.question for group in bundle.groups}
        for old in [each for each in kept if (each.bundle.round, each.bundle.stage) == (bundle.round, bundle.stage)]:
            if any(group.question in asked for group in old.bundle.groups):  # as when the peer has restarted
                kept.remove(old)
        kept.append(_Kept(bundle, size, self._clock(), [group for group in bundle.groups if not group.called_wrong]))
        self._forget_old()
        while self.size > self._most_bytes:
            # Drop from the peer that takes the most room, so that a flood from one peer cannot push out the others.
            fullest = max(self._peers, key=lambda peer: sum(each.size for each in self._peers[peer]))
            self._peers[fullest].popleft()
            self._forget_empty()

    def offers(self, stage: str) -> dict[str, list[Offer]]:
        """Return the unused groups of a stage's latest bundles by peer, newest bundle first.

        Groups that their peer calls all wrong are left out.
        """
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
        """Yield the bundles of one round and stage, used or unused."""
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
