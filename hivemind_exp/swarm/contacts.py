"""Connects to peers: those in the invitation, those remembered, and those announced. Retries, so that a swarm heals.

Peers that a node has met are saved on disk, so that it can return even if every address in its invitation is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp import atomic_write
from hivemind_exp.backoff import growing
from hivemind_exp.swarm.announcement import MAX_ADDRESSES, AnnouncementBook, is_address
from hivemind_exp.swarm.dial import may_answer
from hivemind_exp.swarm.identity import is_peer_id

if TYPE_CHECKING:
    from hivemind_exp.swarm.dht.overlay import Overlay

KNOWN = "known-peers.json"
"""The file with the known peers, in the node's swarm directory."""
MOST = 256
FORGOTTEN_S = 30 * 86_400.0
"""A peer that has not answered for this long is forgotten."""
AGAIN_S = 60.0
"""A peer that answered is contacted again after this long, regardless of other traffic."""
SOON_S = 1.0
"""An absent peer is retried after this long. The pause doubles with each try."""
INVITED_S = 3.0
"""The longest pause for peers in the invitation and for those that answered in the last hour, so that a swarm
reconnects within seconds after a network outage. A node without neighbors tries the peers in its invitation every
``SOON_S``."""
NEWS_S = 4.0
"""The longest pause for a peer that has announced itself since it was last tried."""
QUIET_S = 10.0
"""A neighbor whose newest announcement is older than this is asked for a new one."""
_LARGEST = 1_000_000
"""Largest file that is read, in bytes."""
_UNHEARD = 4
_LONGEST_S = 600.0
_HOUR_S = 3600.0
_AT_ONCE = 16
_NEW_AT_ONCE = 8


@dataclass(slots=True)
class Contact:
    """A peer's addresses, and when it answered."""

    addresses: tuple[str, ...] = ()
    first: float = 0.0
    """When it first answered, Unix seconds. 0: never."""
    answered: float = 0.0
    """When it last answered, Unix seconds."""
    asked: float = 0.0
    """When it was last contacted, Unix seconds. Not saved on disk."""
    failures: int = 0
    """Number of failed contacts in a row. Not saved on disk."""

    @property
    def reachable(self) -> bool | None:
        """Whether it answered when last contacted. None: it was never contacted."""
        return None if not self.asked else self.answered >= self.asked


class KnownPeers(dict[str, Contact]):
    """At most ``MOST`` contacts. Those that first answered longest ago stay, so that new ones cannot push them out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = 0.0
        # The file is optional: without it, the addresses in the invitation remain.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if path.stat().st_size > _LARGEST:
                return
            for peer, fields in list(json.loads(path.read_bytes())["peers"].items())[:MOST]:
                if is_peer_id(peer):
                    addresses = tuple(filter(is_address, fields["addresses"]))[:MAX_ADDRESSES]
                    self[peer] = Contact(addresses, float(fields["first"]), float(fields["answered"]))

    def __missing__(self, _peer: str) -> Contact:
        return Contact()

    def heard_of(self, announced: Mapping[str, Iterable[str]]) -> None:
        """Store the addresses that peers announced, by peer."""
        for peer, addresses in announced.items():
            contact = self.setdefault(peer, Contact())
            contact.addresses = tuple(filter(is_address, addresses))[:MAX_ADDRESSES] or contact.addresses
        self._forget_too_many()

    def asked(self, peer: str, answered: bool) -> None:
        """Store whether a peer answered just now."""
        contact, now = self.setdefault(peer, Contact()), time.time()
        contact.asked = now
        contact.failures = 0 if answered else contact.failures + 1
        if answered:
            if now - contact.answered > FORGOTTEN_S:
                self._saved = 0.0  # a new peer: save at once, so that it is known even if this node dies now
            contact.answered = now
            contact.first = contact.first or now
        self._forget_too_many()

    def save(self, *, every: float = 0.0) -> None:
        """Write the file, unless it was written less than ``every`` seconds ago. Ignores errors like a full disk."""
        now = time.time()
        if abs(now - self._saved) < every:  # the clock may have been set back
            return
        self._saved = now
        peers = {
            peer: {"addresses": list(contact.addresses), "first": contact.first, "answered": contact.answered}
            for peer, contact in self.items()
            if now - contact.answered < FORGOTTEN_S
        }
        with contextlib.suppress(OSError):
            atomic_write.write(self._path, json.dumps({"schema": 1, "peers": peers}))

    def _forget_too_many(self) -> None:
        """Forget contacts if there are too many, all at once: anyone can announce thousands of peers.

        First go those that never answered, then those silent for a week, then the newest.
        """
        week = time.time() - 7 * 86_400

        def worth(peer: str) -> tuple[float, ...]:
            contact = self[peer]
            return (1, contact.answered > week, -contact.first, contact.asked) if contact.first else (0,)

        if (surplus := len(self) - MOST) > 0:
            for peer in nsmallest(surplus, self, key=worth):
                del self[peer]


class Contacts:
    """Keeps connections to the swarm's peers alive."""

    def __init__(self, own: str, invitation: Iterable[str], known: KnownPeers, book: AnnouncementBook) -> None:
        """``own``: this node's peer id; ``invitation``: addresses that end in /p2p/PEER."""
        self._own, self._known, self._book = own, known, book
        self._asked_for_word: dict[str, float] = {}
        self.on_answer: Callable[[str], None] = lambda _peer: None
        """Called with each peer that answers."""
        self.on_return: Callable[[str], None] = lambda _peer: None
        """Called with a peer that answers for the first time, or again."""
        self.running: dict[str, asyncio.Task[bool]] = {}
        """The attempts that ``keep`` has started, by peer."""
        self._invited: dict[str, tuple[str, ...]] = {}
        for address in invitation:
            where, _, peer = address.rpartition("/p2p/")
            if is_address(where) and is_peer_id(peer) and peer != own:
                self._invited[peer] = (*self._invited.get(peer, ()), where)

    @property
    def peers(self) -> list[str]:
        """All peers worth trying, those most likely to answer first."""
        remembered = sorted(self._known, key=lambda peer: -self._known[peer].answered)
        announced = [announcement.peer for _, announcement in self._book.newest()]
        return [peer for peer in dict.fromkeys((*self._invited, *remembered, *announced)) if peer != self._own]

    async def join(self, overlay: Overlay) -> None:
        """Try the known peers, and find this node's neighbors."""
        if any(await self._try(overlay, self.peers[: 4 * _AT_ONCE])):
            await overlay.find_neighbors()

    async def keep(self, overlay: Overlay) -> None:
        """Start contacting the peers that are due. Does not wait: an unreachable peer must not delay the others."""
        self.remember()
        now, neighbours = time.time(), overlay.neighbours
        due = [peer for peer in self.peers if peer not in self.running and self._due(peer, now, neighbours)]
        due.sort(key=lambda peer: self._known[peer].asked)
        # A crowd of peers that this node never met must not keep the others from being contacted.
        at_once = {True: _AT_ONCE, False: _NEW_AT_ONCE}
        for met, most in at_once.items():
            room = most - sum(self._has_met(peer) is met for peer in self.running)
            for peer in [peer for peer in due if self._has_met(peer) is met][: max(0, room)]:
                task = asyncio.create_task(self._ask(overlay, peer))
                self.running[peer] = task
                task.add_done_callback(functools.partial(self._done, peer))

    def _done(self, peer: str, _task: asyncio.Task[bool]) -> None:
        self.running.pop(peer, None)

    def _has_met(self, peer: str) -> bool:
        return peer in self._invited or bool(self._known[peer].first)

    async def check(self, overlay: Overlay, peer: str) -> bool:
        """Return whether a peer answers. If not, it is tried again soon."""
        answered = await overlay.ping(peer)
        self._known.asked(peer, answered)
        return answered

    async def connect(self, overlay: Overlay, peer: str) -> bool:
        """Connect to a peer, unless already connected. An unreachable peer is recorded as not answering."""
        addresses = self._addresses(peer)
        here = self._known[peer].reachable is True or await overlay.is_connected(peer) or await may_answer(addresses)
        connected = here and await overlay.connect(peer, addresses)
        if not connected:
            self._known.asked(peer, answered=False)
        return connected

    def unheard(self, neighbours: Set[str]) -> list[str]:
        """Return some neighbors without a recent announcement, which should be asked directly for it.

        If most keepers of a dictionary are hostile or gone, there is no other way to get it. Up to half of the returned
        peers have announced themselves before or are in the invitation, so that a crowd of new ones cannot displace
        them. Every neighbor gets its turn.
        """
        now = time.time()
        quiet = [peer for peer in neighbours if (newest := self._book.get(peer)) is None or now - newest.t > QUIET_S]
        quiet.sort(key=lambda peer: self._asked_for_word.get(peer, 0.0))
        met = [peer for peer in quiet if peer in self._invited or self._book.get(peer) is not None]
        new = [peer for peer in quiet if peer not in met]
        chosen = met[: _UNHEARD // 2]
        chosen += new[: _UNHEARD - len(chosen)]
        before = self._asked_for_word
        self._asked_for_word = {peer: now if peer in chosen else before.get(peer, 0.0) for peer in quiet}
        return chosen

    def _due(self, peer: str, now: float, neighbours: Set[str]) -> bool:
        contact, invited = self._known[peer], peer in self._invited
        since = abs(now - contact.asked)  # the clock may have been set back
        if peer in neighbours and contact.reachable is not False:
            return since > AGAIN_S
        longest = INVITED_S if invited or now - contact.answered < _HOUR_S else _LONGEST_S
        if (newest := self._book.get(peer)) is not None and newest.t > contact.asked:
            longest = min(longest, NEWS_S)
        if invited and not neighbours:
            longest = SOON_S
        return since > growing(max(0, contact.failures - 1), first=SOON_S, longest=longest)

    def remember(self) -> None:
        """Store the addresses that peers announced."""
        newest = [announcement for _, announcement in self._book.newest()]
        self._known.heard_of(
            {each.peer: each.addresses for each in newest if each.peer != self._own and each.addresses}
        )

    def _addresses(self, peer: str) -> tuple[str, ...]:
        newest = self._book.get(peer)
        known = newest.addresses if newest is not None else self._known[peer].addresses
        return tuple(dict.fromkeys((*known, *self._invited.get(peer, ()))))

    async def _try(self, overlay: Overlay, peers: list[str]) -> list[bool]:
        return await asyncio.gather(*(self._ask(overlay, peer) for peer in peers))

    async def _ask(self, overlay: Overlay, peer: str) -> bool:
        away = self._known[peer].reachable is not True
        # Even without an address, the daemon may know how to reach the peer, or find a way through others.
        connected = await self.connect(overlay, peer)
        answered = connected and await overlay.ping(peer)
        if peer in self._invited:
            self._known.heard_of({peer: self._addresses(peer)})
        self._known.asked(peer, answered)
        if answered:
            self.on_answer(peer)
            if away:
                self.on_return(peer)
        return answered
