"""Reaching peers: those of the invitation, those remembered, those heard of. Again and again, so that a swarm heals."""

import asyncio
import time
from collections.abc import Callable, Iterable, Set

from hivemind_exp.swarm.announcement import is_address
from hivemind_exp.swarm.announcement_book import AnnouncementBook
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.identity import is_peer_id
from hivemind_exp.swarm.known_peers import KnownPeers

AGAIN_S = 60.0
"""A peer that answered is asked again after this long, whatever else passed between."""
SOON_S = 4.0
"""One that is not there is tried again after this long, and later and later the longer it is gone."""
INVITED_S = 20.0
"""The longest pause for the invitation's peers."""
QUIET_S = 10.0
"""A neighbour whose newest word is older is asked for it."""
_UNHEARD = 4
_LONGEST_S = 600.0
_AT_ONCE = 16
_NEW_AT_ONCE = 8


def split(address: str) -> tuple[str, str] | None:
    """Return peer id and address of an invitation's address, which ends in /p2p/PEER. None: it is none."""
    where, mark, peer = address.rpartition("/p2p/")
    return (peer, where) if mark and is_address(where) and is_peer_id(peer) else None


class Contacts:
    """Keeps in touch with the swarm's peers."""

    def __init__(self, own: str, invitation: Iterable[str], known: KnownPeers, book: AnnouncementBook) -> None:
        """``own``: this node's peer id; ``invitation``: addresses that end in /p2p/PEER."""
        self._own, self._known, self._book = own, known, book
        self._asked_for_word: dict[str, float] = {}
        self.on_answer: Callable[[str], None] = lambda _peer: None
        """Called with each peer that answers."""
        self._invited: dict[str, tuple[str, ...]] = {}
        for found in filter(None, map(split, invitation)):
            if found[0] != own:
                self._invited[found[0]] = (*self._invited.get(found[0], ()), found[1])

    @property
    def peers(self) -> list[str]:
        """Everybody there is a reason to try, the likeliest first."""
        remembered = sorted(self._known.items(), key=lambda item: -item[1].answered)
        announced = [announcement.peer for _, announcement in self._book.newest()]
        order = [*self._invited, *(peer for peer, _ in remembered), *announced]
        return [peer for peer in dict.fromkeys(order) if peer != self._own]

    async def join(self, overlay: Overlay) -> int:
        """Try everybody that is known, and find the neighbours of this node. Returns how many answered."""
        answered = await self._try(overlay, self.peers[: 4 * _AT_ONCE])
        if answered:
            await overlay.settle()
        return answered

    async def keep(self, overlay: Overlay) -> None:
        """Ask those whose turn it is."""
        self.remember()
        now, neighbours = time.time(), overlay.neighbours
        due = [peer for peer in self.peers if self._due(peer, now, peer in neighbours)]
        due.sort(key=lambda peer: self._known[peer].asked)
        # A crowd of names that nobody ever met must not keep the others from being asked.
        met = [peer for peer in due if peer in self._invited or self._known[peer].first]
        new = [peer for peer in due if peer not in met]
        await self._try(overlay, [*met[:_AT_ONCE], *new[:_NEW_AT_ONCE]])

    async def connect(self, overlay: Overlay, peer: str) -> bool:
        """Connect to a peer, unless there is a connection. One that cannot be reached is asked again from now on."""
        connected = await overlay.connect(peer, self._addresses(peer))
        if not connected:
            self._known.asked(peer, answered=False)
        return connected

    def unheard(self, neighbours: Set[str]) -> list[str]:
        """Return some neighbours whose word has not come lately, to be asked for it themselves.

        Where most keepers of a dictionary are hostile, or gone, nobody else would tell. Up to half of them are peers
        that have spoken before, or are invited: a crowd must not keep them from being asked. All have their turn.
        """
        now = time.time()
        quiet = [peer for peer in neighbours if (word := self._book.get(peer)) is None or now - word.t > QUIET_S]
        quiet.sort(key=lambda peer: self._asked_for_word.get(peer, 0.0))
        met = [peer for peer in quiet if peer in self._invited or self._book.get(peer) is not None]
        new = [peer for peer in quiet if peer not in met]
        chosen = met[: _UNHEARD // 2]
        chosen += new[: _UNHEARD - len(chosen)]
        before = self._asked_for_word
        self._asked_for_word = {peer: now if peer in chosen else before.get(peer, 0.0) for peer in quiet}
        return chosen

    def _due(self, peer: str, now: float, neighbour: bool) -> bool:
        contact = self._known[peer]
        if neighbour and contact.reachable is not False:
            pause = AGAIN_S
        elif (word := self._book.get(peer)) is not None and word.t > contact.asked:
            pause = SOON_S  # it has spoken since
        else:
            gone = now - contact.answered if contact.answered else _LONGEST_S
            pause = min(max(gone / 4, SOON_S), INVITED_S if peer in self._invited else _LONGEST_S)
        return now - contact.asked > pause

    def remember(self) -> None:
        """Note where peers say they are."""
        for _, announcement in self._book.newest():
            if announcement.peer != self._own and announcement.addresses:
                self._known.heard_of(announcement.peer, announcement.addresses)

    def _addresses(self, peer: str) -> tuple[str, ...]:
        word = self._book.get(peer)
        said = word.addresses if word is not None else self._known[peer].addresses
        return tuple(dict.fromkeys((*said, *self._invited.get(peer, ()))))

    async def _try(self, overlay: Overlay, peers: list[str]) -> int:
        return sum(await asyncio.gather(*(self._ask(overlay, peer) for peer in peers)))

    async def _ask(self, overlay: Overlay, peer: str) -> bool:
        # Without an address the daemon may still know the way, or find it through others.
        connected = await self.connect(overlay, peer)
        answered = connected and await overlay.ping(peer)
        if peer in self._invited:
            self._known.heard_of(peer, self._addresses(peer))
        self._known.asked(peer, answered)
        if answered:
            self.on_answer(peer)
        return answered
