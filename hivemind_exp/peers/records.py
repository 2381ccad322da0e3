"""What a node remembers about its peers: their standing and their contributions. Kept in memory and as JSON on disk.

The records describe contributions but prove nothing. This module imports little, so that the command line can use it.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write
from hivemind_exp.finite_numbers import is_finite

FILE_NAME = "peerbook.json"
MOST_PEERS = 512
"""Maximum number of peers remembered. Beyond that, those that contributed least are forgotten."""
SAVE_EVERY_S = 15.0
"""Seconds between two writes of the file."""
MEMORY = 0.9
"""Weight of the past in the moving averages, per group."""
KNOWN_AFTER = 8
"""Number of verified groups after which a peer counts as known, no longer as a stranger."""
FLOOR = 0.1
"""The lowest weight of a known peer, and the weight that all strangers share."""
TOLERANCE = 0.05
"""Difference between claimed and recomputed rewards, in [0, 1], that different settings can explain."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer's record of honesty. The defaults are those of a stranger."""

    groups: int = 0
    """The peer's groups that were verified here."""
    excess: float = 0.0
    """Moving average of the claimed minus the recomputed reward, in [-1, 1]."""
    parsed: float = 1.0
    """Moving average of the share of its data that was valid, in [0, 1]."""

    @property
    def known(self) -> bool:
        """Whether enough of the peer's groups were verified to judge it."""
        return self.groups >= KNOWN_AFTER


def verified(standing: Standing, *, claimed: float, recomputed: float) -> Standing:
    """Return the standing after one more group. ``claimed`` and ``recomputed`` are its mean rewards, in [0, 1]."""
    return Standing(
        groups=standing.groups + 1,
        excess=MEMORY * standing.excess + (1 - MEMORY) * (claimed - recomputed),
        parsed=MEMORY * standing.parsed + (1 - MEMORY),
    )


def refused(standing: Standing) -> Standing:
    """Return the standing after one more invalid group or bundle."""
    return Standing(standing.groups, standing.excess, MEMORY * standing.parsed)


def weight(standing: Standing) -> float:
    """Return the weight of a known peer, in [0.1, 1].

    Claims that are too low count as much as claims that are too high: an honest node makes neither.
    """
    lie = max(0.0, abs(standing.excess) - TOLERANCE)
    return max(FLOOR, standing.parsed * max(0.0, 1.0 - 4.0 * lie))


def weights(standings: Mapping[str, Standing]) -> dict[str, float]:
    """Return the relative weights of peers. All strangers share one floor, because identities are free."""
    strangers = sum(not standing.known for standing in standings.values())
    # While all peers are strangers, they have equal weight.
    share = FLOOR / strangers if 0 < strangers < len(standings) else 1.0
    return {peer: weight(each) if each.known else share for peer, each in standings.items()}


@dataclass(slots=True)
class PeerRecord:
    """What this node has seen of one peer."""

    standing: Standing = field(default_factory=Standing)
    first_seen: float = 0.0
    """Unix seconds."""
    last_seen: float = 0.0
    round: int = -1
    """The latest of the peer's rounds from which it shared groups."""
    offered: int = 0
    """Groups received from it."""
    verified: int = 0
    """Its completions that were verified here."""
    correct: int = 0
    """Verified completions that were correct."""
    used: int = 0
    """Its groups that this node learned from."""
    skewed: int = 0
    """Groups whose questions differ from ours. That means a version mismatch, not a lie."""
    refused: int = 0
    """Its groups and bundles that were invalid."""
    kind: str = ""
    """The kind that it claims for its text."""
    label: str = ""
    """The model that it claims to use."""


class PeerBook:
    """The peers of one swarm. Use it from one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or start empty if it is missing or damaged."""
        self._path = path
        self.peers = read_peers(path)
        self._saved = time.monotonic()
        self._begins = not self.peers

    def standing(self, peer: str) -> Standing:
        """Return a peer's standing. An unknown peer has that of a stranger."""
        record = self.peers.get(peer)
        return Standing() if record is None else record.standing

    def record(self, peer: str) -> PeerRecord:
        """Return a peer's record, to be changed in place. Creates it for a new peer."""
        if peer not in self.peers:
            while len(self.peers) >= MOST_PEERS:
                worth = {name: (each.used, each.standing.groups, each.last_seen) for name, each in self.peers.items()}
                del self.peers[min(worth, key=worth.__getitem__)]
            self.peers[peer] = PeerRecord(first_seen=time.time())
        found = self.peers[peer]
        found.last_seen = time.time()
        return found

    def was_verified(self, peer: str, *, claimed: float, recomputed: float, completions: int, correct: int) -> None:
        """Record a verified group. ``claimed`` and ``recomputed`` are its mean rewards, in [0, 1]."""
        record = self.record(peer)
        record.verified += completions
        record.correct += correct
        record.standing = verified(record.standing, claimed=claimed, recomputed=recomputed)

    def was_refused(self, peer: str) -> None:
        """Record an invalid group or bundle."""
        record = self.record(peer)
        record.refused += 1
        record.standing = refused(record.standing)

    def save(self, *, now: bool = False) -> None:
        """Write the whole file, unless it was written a moment ago. Ignores write errors, which lose only records.

        The first peer is written at once, so that no command says that there is none.
        """
        now = now or (self._begins and bool(self.peers))
        if not now and time.monotonic() - self._saved < SAVE_EVERY_S:
            return
        self._saved, self._begins = time.monotonic(), self._begins and not self.peers
        body = {"schema": 1, "peers": {peer: asdict(record) for peer, record in self.peers.items()}}
        with suppress(OSError):
            atomic_write.write(self._path, json.dumps(body))


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values if all are finite numbers. Raises TypeError."""
    if not all(map(is_finite, values.values())):
        raise TypeError(values)
    return dict(values)


def read_peers(path: Path) -> dict[str, PeerRecord]:
    """Return the records in a file by peer. Empty if the file is missing or damaged."""
    try:
        found = {}
        for peer, each in json.loads(path.read_text())["peers"].items():
            standing = Standing(**_numbers(each["standing"]))
            known = {name.name: each[name.name] for name in fields(PeerRecord) if name.name in each}
            words = {name: known.pop(name, "") for name in ("kind", "label")}
            if not all(isinstance(word, str) for word in words.values()):
                raise TypeError(words)
            found[str(peer)] = PeerRecord(**_numbers(known | {"standing": 0}) | words | {"standing": standing})
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
