"""Peers' groups until they are used or too old: bounded in peers, bundles and bytes, whoever sends how much."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hivemind_exp.peers.bundle import Bundle, SharedGroup

RECENT_S = 900.0
"""Seconds after which a bundle is too old to be used."""
BUNDLES_A_PEER = 64
"""Bundles kept of one peer, the latest: a fast node shares many within one stage of a study group."""
OFFERED = 4
"""Bundles of one peer whose groups are offered, the latest: text grows stale."""
MOST_BYTES = 64 * 2**20
"""Of all bundles together."""


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
        self._clock = clock
        self._most_bytes = most_bytes
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
        """Do not offer a group again."""
        for kept in self._peers.get(offer.peer, ()):
            kept.unused = [group for group in kept.unused if group is not offer.group]

    def discard_peer(self, peer: str) -> None:
        """Forget everything of a peer."""
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
