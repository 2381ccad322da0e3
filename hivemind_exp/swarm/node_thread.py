"""The background thread that keeps a node in its swarm: an asyncio loop that runs the DHT and its periodic work.

``SwarmNode`` adds the methods that the trainer calls. No error here reaches the trainer as an exception: it becomes an
event, or the work is retried. Any thread may read the state that the trainer uses (peers, addresses, bundles).
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from hivemind_exp.backoff import growing
from hivemind_exp.events import Emit, ErrorEvent, Event, PeersEvent, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.patience import within
from hivemind_exp.swarm.announcement import (
    LEAST_PAUSE_S,
    MAX_ADDRESSES,
    MAX_LABEL_CHARACTERS,
    Announcement,
    AnnouncementBook,
    next_seq,
)
from hivemind_exp.swarm.clock_skew import describe_skew, is_news, median_skew
from hivemind_exp.swarm.contacts import KNOWN, Contacts, KnownPeers
from hivemind_exp.swarm.copies import ALONE_S, CopySearch
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import UNCOUNTED, Incarnation
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.transfer.bundle_store import BundleInbox, BundleStore
from hivemind_exp.swarm.transfer.peer_transfers import NAME, BundleFetcher, PeerTransfers, TransferKind
from hivemind_exp.swarm.waits import cancel_all, first_done, wait_set, while_alive
from hivemind_exp.swarm_settings import SwarmConfig

JOIN_S = 15.0
"""How long joining waits for an answer from a peer."""
HEARTBEAT_S = 60.0
"""An announcement is repeated after this long, even without news."""
LOOK_S = 2.0
"""Pause between two looks at the announcements. It is longer if there is so much to read that ``READ_PACE`` requires
it."""
READ_PACE = 200_000.0
"""Bytes per second that looking may read on average."""
_UNTAKEN_S = 5.0
"""An announcement that no peer has accepted is repeated after this long."""
_RECENT_S = 600.0
"""A peer that answered within this time counts as seen, even without an announcement."""
_TRIES = 4
_MAINTAIN_S = 0.5
_WATCHDOG_S = 5.0
_SILENCES = 3
"""A daemon that does not answer this many checks in a row is killed."""
_SAVE_S = 60.0

log = logging.getLogger(__name__)


class SwarmThread:
    """Keeps a node in its swarm. Restarts the daemon when it dies."""

    def __init__(
        self,
        identity: Identity,
        charter_id: str,
        *,
        key: Path,
        directory: Path,
        settings: SwarmConfig,
        invitation: Iterable[str] = (),
        emit: Emit,
        label: str = "",
        incarnation: Incarnation = UNCOUNTED,
        on_superseded: Callable[[Incarnation], None] | None = None,
    ) -> None:
        """
        Args:
            charter_id: the swarm's id (hex).
            key: the key file of ``identity``; the daemon reads it.
            directory: where the node saves what it knows about its swarm (``NodeFiles.swarm``); created if missing.
            invitation: addresses that end in /p2p/PEER.
            emit: called from another thread. Its exceptions are ignored, so that a failing log stops nothing.
            label: where this node's rollouts come from, as text for display.
            incarnation: this start of the identity.
            on_superseded: called, from another thread, when a newer copy of the identity is running.
        """
        self.peer_id, invitation = identity.peer_id, tuple(invitation)
        self._on_superseded = on_superseded
        self._identity, self._swarm, self._key, self._settings, self._log = identity, charter_id, key, settings, emit
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        printable = "".join(filter(str.isprintable, label))[:MAX_LABEL_CHARACTERS]
        self._said = Announcement(self.peer_id, 0, 0, 0, None, printable, incarnation=incarnation)
        """The announcement, to which each record adds its time, addresses and bundles."""
        self._access = MembershipProof(charter_id, self.peer_id)
        # Used by the thread's loop, which does not exist yet.
        self._stop, self._fresh, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._back = asyncio.Event()
        self._returned: set[str] = set()
        """Peers that have just joined or returned. They are asked for their announcement immediately."""
        self._neighbours: set[str] = set()
        """The neighbors at the last count."""
        self.book = AnnouncementBook(charter_id, self.peer_id)
        self.bundle_store = BundleStore()
        self.inbox = BundleInbox(lambda peer: self.book.get(peer) is not None)
        self.known_peers = KnownPeers(directory / KNOWN)
        self.contacts = Contacts(self.peer_id, invitation, self.known_peers, self.book)
        self._copies = CopySearch(
            identity, charter_id, key=key, directory=directory, settings=settings, invitation=invitation
        )
        self.transfers = PeerTransfers(self._access, self._find, self._is_known)
        connect, on_room = self.contacts.connect, self._news.set
        check = self.contacts.check
        self.fetcher = BundleFetcher(self.transfers, self.bundle_store, self.inbox, connect, check, on_room)
        self.contacts.on_answer = self.fetcher.forgive
        self.contacts.on_return = self._welcome
        self.charter: bytes | None = None
        """The signed charter, for members that request it."""
        self._places: tuple[str, ...] = ()
        """The daemon's addresses, those with the widest reach first."""
        self.overlay: Overlay | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """The thread's loop; None before it starts and after it has ended."""
        self.failure: BaseException | None = None
        """The exception that ended the thread; None if ``close`` did."""
        self.joined = threading.Event()
        """Set when the thread has tried to join, or has ended."""
        self._thread: threading.Thread | None = None
        self._port = 0
        self._seq = 0
        self._born_ms = 0
        self._stopping = False
        self._told: set[str] = set()
        self._alive_before = -1
        self._skew_told = 0.0

    # --- called by the trainer's side

    def announced(self) -> dict[str, Announcement]:
        """Return the newest announcement of each other peer."""
        return {each.peer: each for _, each in self.book.newest() if each.peer != self.peer_id}

    def last_seen(self) -> dict[str, float]:
        """Return when each peer last announced itself or answered (Unix seconds).

        Includes peers with a valid announcement, and peers that answered recently.
        """
        seen = {peer: max(self.known_peers[peer].answered, each.t) for peer, each in self.announced().items()}
        recent = time.time() - _RECENT_S
        for peer, contact in list(self.known_peers.items()):
            if contact.answered > recent:
                seen.setdefault(peer, contact.answered)
        return seen

    def _emit(self, event: Event) -> None:
        with contextlib.suppress(Exception):
            self._log(event)

    def _call(self, do: Callable[[], None]) -> None:
        loop = self.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(do)

    # --- the loop's life

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, context: log.debug("swarm: %s", context.get("message")))
        self.loop = loop
        try:
            loop.run_until_complete(self._live())
        except BaseException as error:  # noqa: BLE001 - the trainer continues without its swarm
            self.failure = error
            if self.joined.is_set() and not self._stopping:
                reason = f"{type(error).__name__}: {foreign(error)}"
                message = f"the connection to the swarm failed ({reason}). The node continues without peers"
                self._emit(ErrorEvent(code="swarm", message=message))
        finally:
            self.loop = None
            with contextlib.suppress(Exception):
                loop.run_until_complete(asyncio.wait_for(cancel_all(asyncio.all_tasks(loop)), 0.5))
            loop.close()
            self.joined.set()

    async def _live(self) -> None:
        former = None
        while not self._stop.is_set():
            overlay = await self._build(former)
            if overlay is None:
                return
            try:
                await self._run_overlay(overlay, first=former is None)
            finally:
                await cancel_all([*self.fetcher.running.values(), *self.contacts.running.values()])
                self.contacts.remember()
                self.known_peers.save()
                await overlay.close(patience=0.7)
            former = overlay
            if not self._stop.is_set():
                message = "hivemind's daemon p2pd died; restarting it"
                self._emit(WarningEvent(code="daemon_died", message=message))

    async def _build(self, former: Overlay | None) -> Overlay | None:
        """Return an open overlay, or None after a stop.

        For the first overlay (``former`` is None), raises the last error after ``_TRIES`` tries.
        """
        tries = 0
        while not self._stop.is_set():
            overlay = Overlay(self._swarm, self._access, self.book, self._news.set)
            try:
                opening = asyncio.create_task(while_alive(self._open(overlay, former), overlay.died()))
                await first_done(opening, self._stop.wait())
                if not opening.done():
                    await cancel_all([opening])
                    await overlay.close(patience=0.3)
                    return None
                opening.result()
            except Exception as error:  # a daemon that fails to start can raise anything
                await overlay.close(patience=0.3)
                tries += 1
                if former is None and tries >= _TRIES:
                    raise
                log.debug("p2pd did not start: %r", error)
                await first_done(asyncio.sleep(growing(tries, first=1.0, longest=30.0)), self._stop.wait())
            else:
                self.overlay = overlay
                return overlay
        return None

    async def _open(self, overlay: Overlay, former: Overlay | None) -> None:
        """Open an overlay to peers. Raises any exception of hivemind and the system."""
        await overlay.open(self._key, self._port, self._settings, former)
        await overlay.serve_streams(NAME, self.transfers.serve)

    async def _run_overlay(self, overlay: Overlay, *, first: bool) -> None:
        """Run an overlay until its daemon dies or the node stops."""
        with contextlib.suppress(Exception):
            await self._locate(overlay)
        joining = asyncio.create_task(self.contacts.join(overlay))
        with contextlib.suppress(TimeoutError):
            await within(JOIN_S, first_done(joining, self._stop.wait(), overlay.died()))
        if first and not overlay.neighbours and self.contacts.peers:
            message = "no peer responds yet; starting alone, and joining the swarm once one does"
            self._tell(WarningEvent(code="swarm_alone", message=message))
        self.joined.set()
        self._fresh.set()
        loops = (self._announce, self._read, self._fetch, self._maintain, self._watchdog, self._search)
        work = [asyncio.create_task(self._forever(do, overlay)) for do in loops]
        try:
            await first_done(self._stop.wait(), overlay.died())
        finally:
            await cancel_all([*work, joining])

    async def _forever(self, do: Callable[[Overlay], Awaitable[None]], overlay: Overlay) -> None:
        while True:
            try:
                await do(overlay)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is retried after a moment
                log.debug("swarm: %r", error)
                await asyncio.sleep(1.0)

    # --- periodic work

    async def _announce(self, overlay: Overlay) -> None:
        """Announce news, or just that this node is alive. Repeat it soon if no peer has accepted it."""
        self._fresh.clear()
        record, announcement = self._record()
        kept = await overlay.store(record, announcement)
        pause = HEARTBEAT_S if kept or not overlay.neighbours else _UNTAKEN_S
        await asyncio.sleep(LEAST_PAUSE_S)
        await wait_set(self._fresh, pause - LEAST_PAUSE_S)

    def _record(self) -> tuple[bytes, Announcement]:
        self._seq = next_seq(self._seq, time.time())
        addresses, bundles = self._places[:MAX_ADDRESSES], self.bundle_store.refs
        announcement = replace(self._said, seq=self._seq, addresses=addresses, bundles=bundles)
        record = announcement.pack(self._identity, self._swarm)
        self.book.issue(record, announcement)
        return record, announcement

    async def _read(self, overlay: Overlay) -> None:
        self._back.clear()
        returned, self._returned = self._returned, set()
        await overlay.look({*self.contacts.unheard(overlay.neighbours), *returned})
        self._news.set()
        least = overlay.bytes_read / READ_PACE
        await asyncio.sleep(least)
        await wait_set(self._back, LOOK_S - least)

    def _welcome(self, *peers: str) -> None:
        """Look for the announcements of peers that have just joined or returned."""
        self._returned.update(peers)
        self._back.set()

    async def _fetch(self, overlay: Overlay) -> None:
        self._news.clear()
        self.fetcher.look(overlay, self.announced().values())
        await wait_set(self._news, LOOK_S)
        await asyncio.sleep(0.05)  # treat a burst of news as one

    async def _maintain(self, overlay: Overlay) -> None:
        """Keep connections to peers alive, drop old data, and report problems to the operator."""
        await self.contacts.keep(overlay)
        before, self._neighbours = self._neighbours, overlay.neighbours
        if new := self._neighbours - before:
            self._welcome(*new)
        if new and not before:
            self._fresh.set()
        overlay.prune()
        self.book.favoured = {peer for peer, contact in self.known_peers.items() if contact.answered}
        self.known_peers.save(every=_SAVE_S)
        self._look_for_copies()
        self._watch(overlay)
        await asyncio.sleep(_MAINTAIN_S)

    async def _watchdog(self, overlay: Overlay) -> None:
        """Kill the daemon if it is stuck. It is then restarted like one that died."""
        silent = 0
        while silent < _SILENCES:
            await asyncio.sleep(_WATCHDOG_S)
            try:
                await self._locate(overlay)
                silent = 0
            except (OSError, EOFError, TimeoutError):
                silent += 1
        overlay.kill()

    async def _locate(self, overlay: Overlay) -> None:
        """Ask the daemon for its addresses. Raises OSError, EOFError or TimeoutError if it is gone or stuck."""
        self._places = tuple(await overlay.addresses())
        self._copies.places.note(self._places)

    def _watch(self, overlay: Overlay) -> None:
        skews = overlay.skews.recent()
        ahead = median_skew(skews)
        if ahead is not None and is_news(ahead, self._skew_told):
            self._skew_told = ahead
            self._emit(WarningEvent(code="clock_skew", message=describe_skew(ahead, len(skews))))
        # A peer that was last heard by an earlier run may be gone: "starting alone" must stay true.
        since = max(time.time() - 2 * HEARTBEAT_S, self._born_ms / 1000)
        alive = sum(seen > since for seen in self.last_seen().values())
        if alive != self._alive_before:
            self._alive_before = alive
            self._emit(PeersEvent(peers=alive, neighbours=len(overlay.neighbours)))

    async def _search(self, overlay: Overlay) -> None:
        """Look for copies of this node that no peer could report."""
        own = replace(self._said, addresses=self._places[:MAX_ADDRESSES])
        for copy in await self._copies.search(own, self._port, alone=not overlay.neighbours):
            self._meet_copy(copy, running=True)
        await asyncio.sleep(ALONE_S)

    def _look_for_copies(self) -> None:
        """Notice the announcement of another copy of this node."""
        found, self.book.foreign = self.book.foreign, None
        if found is not None:
            # Otherwise it is a record of an earlier run.
            self._meet_copy(found, running=found.seq > self._born_ms + 1000)

    def _meet_copy(self, copy: Announcement, *, running: bool) -> None:
        """Compare another copy of this node with this one, which must stop if it is the older."""
        self._seq = max(self._seq, copy.seq)  # so that this node's next record replaces the other's everywhere
        self._copies.places.note(copy.addresses)
        if copy.incarnation > self._said.incarnation:
            if self._on_superseded is not None:
                self._on_superseded(copy.incarnation)
            return
        self._fresh.set()
        if running:
            message = "an older copy of this node is running with its identity: it stops when it notices this one"
            self._tell(WarningEvent(code="identity_elsewhere", message=message))

    def _tell(self, event: WarningEvent) -> None:
        """Emit an event, unless one with its code was emitted before."""
        if event.code not in self._told:
            self._told.add(event.code)
            self._emit(event)

    # --- charter and bundles

    def _find(self, kind: TransferKind, sha256: bytes) -> bytes | None:
        return self.charter if kind is TransferKind.CHARTER else self.bundle_store.get(sha256)

    def _is_known(self, peer: str) -> bool:
        return self.book.get(peer) is not None or bool(self.known_peers[peer].first)
