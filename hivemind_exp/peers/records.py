"""What a node remembers of its peers: their standing and what came of their groups. In memory, and as JSON on disk.

It says what was contributed, and proves nothing. It is light, so that the command line can read it.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from hivemind_exp import atomic_write

FILE_NAME = "peerbook.json"
MOST_PEERS = 512
"""Peers that are remembered: of more, those that contributed least are forgotten."""
SAVE_EVERY_S = 15.0
"""Seconds between two writes of the file."""
MEMORY = 0.9
"""Weight of the past in the moving averages, for each group."""
KNOWN_AFTER = 8
"""Verified groups after which a peer is no stranger any more."""
FLOOR = 0.1
"""Weight below which no peer that is known falls, and which all strangers share."""
TOLERANCE = 0.05
"""Difference of claimed and recomputed rewards, in [0, 1], that is put down to other settings."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of a peer's honesty. The defaults are a stranger's."""

    groups: int = 0
    """Groups of it that were verified here."""
    excess: float = 0.0
    """Moving average of claimed minus recomputed reward, in [-1, 1]."""
    parsed: float = 1.0
    """Moving average of the share of what it sent that was as it should be, in [0, 1]."""

    @property
    def known(self) -> bool:
        """Whether enough of it was verified to judge it."""
        return self.groups >= KNOWN_AFTER


def verified(standing: Standing, *, claimed: float, recomputed: float) -> Standing:
    """Return the standing after one more group; ``claimed`` and ``recomputed`` are its mean rewards, in [0, 1]."""
    return Standing(
        groups=standing.groups + 1,
        excess=MEMORY * standing.excess + (1 - MEMORY) * (claimed - recomputed),
        parsed=MEMORY * standing.parsed + (1 - MEMORY),
    )


def refused(standing: Standing) -> Standing:
    """Return the standing after one more group or bundle that was not as it should be."""
    return Standing(standing.groups, standing.excess, MEMORY * standing.parsed)


def weight(standing: Standing) -> float:
    """Return the weight of a known peer, in [0.1, 1].

    Claims that are too low count like those that are too high: an honest node's are neither.
    """
    lie = max(0.0, abs(standing.excess) - TOLERANCE)
    return max(FLOOR, standing.parsed * max(0.0, 1.0 - 4.0 * lie))


def weights(standings: Mapping[str, Standing]) -> dict[str, float]:
    """Return the weights of peers beside one another. Strangers share one floor: identities are free."""
    strangers = sum(not standing.known for standing in standings.values())
    # While nobody is known there is nothing to weigh strangers against.
    share = FLOOR / strangers if 0 < strangers < len(standings) else 1.0
    return {peer: weight(each) if each.known else share for peer, each in standings.items()}


@dataclass(slots=True)
class PeerRecord:
    """One peer, as seen from here."""

    standing: Standing = field(default_factory=Standing)
    first_seen: float = 0.0
    """Unix seconds."""
    last_seen: float = 0.0
    round: int = -1
    """The latest round of its own that it shared."""
    offered: int = 0
    """Groups that came from it."""
    verified: int = 0
    """Completions verified here."""
    correct: int = 0
    """How many of those were right."""
    used: int = 0
    """Groups of it that this node learned from."""
    skewed: int = 0
    """Groups whose questions are others than ours. That is another version of something, and no lie."""
    refused: int = 0
    """Groups and bundles that were not as they should be."""
    kind: str = ""
    """What it says of where its text comes from."""
    label: str = ""
    """Which model it says it is."""


class PeerBook:
    """The peers of one swarm. For use from one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin a new one where there is none that can be read."""
        self._path = path
        self.peers = read_peers(path)
        self._saved = time.monotonic()

    def standing(self, peer: str) -> Standing:
        """Return what is remembered of a peer's honesty; a stranger's where nothing is."""
        record = self.peers.get(peer)
        return Standing() if record is None else record.standing

    def record(self, peer: str) -> PeerRecord:
        """Return a peer's record, to be changed in place; of a new peer a new one."""
        if peer not in self.peers:
            while len(self.peers) >= MOST_PEERS:
                worth = {name: (each.used, each.standing.groups, each.last_seen) for name, each in self.peers.items()}
                del self.peers[min(worth, key=worth.__getitem__)]
            self.peers[peer] = PeerRecord(first_seen=time.time())
        found = self.peers[peer]
        found.last_seen = time.time()
        return found

    def was_verified(self, peer: str, *, claimed: float, recomputed: float, completions: int, correct: int) -> None:
        """Take note of a group; ``claimed`` and ``recomputed`` are mean rewards in [0, 1]."""
        record = self.record(peer)
        record.verified += completions
        record.correct += correct
        record.standing = verified(record.standing, claimed=claimed, recomputed=recomputed)

    def was_refused(self, peer: str) -> None:
        """Take note of a group or bundle that was not as it should be."""
        record = self.record(peer)
        record.refused += 1
        record.standing = refused(record.standing)

    def save(self, *, now: bool = False) -> None:
        """Write the file whole, unless that was done a moment ago. A disk that is full loses nothing but memories."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY_S:
            return
        self._saved = time.monotonic()
        body = {"schema": 1, "peers": {peer: asdict(record) for peer, record in self.peers.items()}}
        with suppress(OSError):
            atomic_write.write(self._path, json.dumps(body))


def read_peers(path: Path) -> dict[str, PeerRecord]:
    """Return the records of a file by peer; none where it is missing or damaged."""
    try:
        found = {}
        for peer, each in json.loads(path.read_text())["peers"].items():
            known = {name.name: each[name.name] for name in fields(PeerRecord) if name.name in each}
            found[str(peer)] = PeerRecord(**known | {"standing": Standing(**known["standing"])})
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
