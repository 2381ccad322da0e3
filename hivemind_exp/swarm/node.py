"""A node's place in its swarm: an asyncio thread of its own, on which the DHT lives, and what the trainer calls.

Nothing that is called here waits for the network, except ``start`` and ``fetch_charter``, which say how long. Nothing
that happens on the thread reaches the trainer as an exception: it becomes an event, or is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from hivemind.utils.logging import use_hivemind_log_handler

from hivemind_exp.config import SwarmConfig
from hivemind_exp.errors import SwarmError
from hivemind_exp.events import Emit, ErrorEvent, Event, PeersEvent, WarningEvent
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.announcement import (
    LEAST_PAUSE_S,
    MAX_LABEL_CHARACTERS,
    Announcement,
    BundleRef,
    RecordRefused,
)
from hivemind_exp.swarm.announcement_book import AnnouncementBook
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.contacts import Contacts
from hivemind_exp.swarm.dht import leftovers
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.known_peers import KnownPeers
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.transfer.bundle_store import BundleInbox, BundleStore, Received
from hivemind_exp.swarm.transfer.cancel import cancel_all
from hivemind_exp.swarm.transfer.courier import Courier, FetchFailed, TransferKind
from hivemind_exp.swarm.transfer.fetcher import BundleFetcher

START_S = 240.0
"""In which a daemon must have started, tries included."""
JOIN_S = 15.0
"""How long ``start`` waits for peers to answer."""
CLOSE_S = 1.5
HEARTBEAT_S = 60.0
"""An announcement is repeated after this long, new or not."""
LOOK_S = 2.0
"""Between two looks at the announcements; longer where there is so much to read that it would be a burden."""
READ_PACE = 200_000.0
"""Bytes a second that looking may take."""
_TRIES = 4
_KEEP_S = 5.0
_FEEL_S = 5.0
_SILENCES = 3
"""Looks in a row that a daemon may leave without an answer."""
_SAVE_S = 60.0
_MOST_SKEW_S = 3.0
_NO_CHARTER = bytes(32)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """What this node knows of a peer."""

    peer: str
    announcement: Announcement | None
    """Its newest word. None: it answered, and said nothing yet."""
    seen: float
    """When it last gave a sign of life, Unix seconds."""
    reachable: bool | None
    """Whether it answered when last asked. None: it was never asked."""


class SwarmNode:
    """A node's place in its swarm."""

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
    ) -> None:
        """
        Args:
            charter_id: the swarm's (hex).
            key: the file in which ``identity`` is; the daemon reads it.
            directory: what the node remembers of its swarm (``NodeFiles.swarm``); made if it is not there.
            invitation: addresses that end in /p2p/PEER.
            emit: called from another thread.
            label: where this node's rollouts come from, for people.
        """
        self.peer_id = identity.peer_id
        self._identity, self._swarm, self._key, self._settings, self._emit = (
            identity,
            charter_id,
            key,
            settings,
            _harmless(emit),
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._access = MembershipProof(charter_id, identity.peer_id)
        self._book = AnnouncementBook(charter_id, identity.peer_id)
        self._shelf = BundleStore()
        self._inbox = BundleInbox(lambda peer: self._book.get(peer) is not None)
        self._known = KnownPeers(directory / "known-peers.json")
        self._contacts = Contacts(identity.peer_id, invitation, self._known, self._book)
        self._courier = Courier(self._access, self._find, self._is_known)
        # Of the thread's loop, which does not exist yet.
        self._stop, self._fresh, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._fetching = BundleFetcher(
            self._courier, self._shelf, self._inbox, connect=self._contacts.connect, on_room=self._news.set
        )
        self._contacts.on_answer = self._fetching.forgive
        self._charter: bytes | None = None
        self._said = Announcement(identity.peer_id, 0, 0, 0, None, _printable(label))
        self._addresses: tuple[str, ...] = ()
        self._seq = 0
        self._born_ms = 0
        self._port: addresses.Port | None = None
        self._overlay: Overlay | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._told: set[str] = set()
        self._alive_before = -1

    # --- the trainer's side

    def start(self) -> None:
        """Join the swarm, or begin alone with a warning when nobody answers.

        Waits until the daemon runs (a second or two; minutes on a machine that is overwhelmed) and for the first
        answers, at most ``JOIN_S``.

        Raises:
            SwarmError: the port is in use, or the daemon cannot be started.
        """
        use_hivemind_log_handler("nowhere")
        logging.getLogger("hivemind").setLevel(logging.CRITICAL)
        if found := leftovers.reap(self._key):
            message = f"cleared up after an earlier life: {', '.join(found)}"
            self._emit(WarningEvent(code="leftovers", message=message))
        self._port = addresses.take(self._settings.port, self._directory / "port", loopback=self._settings.loopback)
        self._born_ms = int(time.time() * 1000)
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)
        self._thread.start()
        if not self._started.wait(START_S + JOIN_S) or self._failure is not None:
            failure = self._failure
            self.close()
            why = f"{type(failure).__name__}: {failure}" if failure is not None else "it does not answer"
            raise SwarmError(
                f"hivemind's daemon p2pd cannot be started: {why}", next="swarmctl doctor swarm"
            ) from failure

    def addresses(self) -> tuple[str, ...]:
        """Return where others reach this node, for an invitation: the widest first, each ends in /p2p/PEER."""
        return tuple(f"{address}/p2p/{self.peer_id}" for address in self._addresses)

    def serve_charter(self, envelope: bytes) -> None:
        """Give the signed charter to members that ask."""
        self._charter = envelope

    def fetch_charter(self, timeout: float = 60.0) -> bytes:
        """Return the signed charter from whoever has it, its hash and signature checked.

        Raises SwarmError when nobody gave it within ``timeout`` seconds.
        """
        if self._loop is None:
            raise RuntimeError("fetch_charter before start")
        future = asyncio.run_coroutine_threadsafe(self._fetch_charter(timeout), self._loop)
        try:
            return future.result(timeout + 5)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            raise self._no_charter("nobody answered") from error

    def publish(
        self,
        bundle: bytes,
        *,
        round: int,
        stage: int = 0,
        groups: int,
        step: int,
        progress: int | None = None,
    ) -> BundleRef:
        """Serve a bundle from now on and announce it, as soon and as often as it takes.

        Args:
            progress: this node's own accuracy in thousandths, if known.

        Raises:
            ValueError: the bundle is empty or larger than ``MAX_BUNDLE_BYTES``, or no peer would take what is said.
        """
        said = self._checked(round, step, progress, self._said.label)
        ref = self._shelf.put(bundle, round_=round, stage=stage, groups=groups)
        self._say(said)
        return ref

    def say(self, *, round: int, step: int, progress: int | None = None, label: str | None = None) -> None:
        """Announce where this node is, without a bundle.

        Raises ValueError for what no peer would take.
        """
        self._say(self._checked(round, step, progress, self._said.label if label is None else label))

    def _checked(self, round_: int, step: int, progress: int | None, label: str) -> Announcement:
        said = Announcement(self.peer_id, 0, round_, step, progress, _printable(label))
        try:
            said.pack(self._identity, self._swarm)
        except RecordRefused as error:
            raise ValueError(f"this cannot be announced: {error}") from error
        return said

    def _say(self, said: Announcement) -> None:
        self._said = said
        self._call(self._fresh.set)

    def take(self) -> list[Received]:
        """Return the bundles that came since the last call, each once."""
        return self._inbox.take()

    def peers(self) -> list[PeerSeen]:
        """Return the peers that gave a sign of life lately, and those announced, the latest first."""
        words = {announcement.peer: announcement for _, announcement in self._book.newest()}
        words.pop(self.peer_id, None)
        contacts = dict(self._known.items())
        recent = time.time() - 600
        names = [*words, *(peer for peer, contact in contacts.items() if contact.answered > recent)]
        seen = []
        for peer in dict.fromkeys(names):
            contact, word = self._known[peer], words.get(peer)
            at = max(contact.answered, word.t if word else 0.0)
            seen.append(PeerSeen(peer, word, at, contact.reachable))
        return sorted(seen, key=lambda peer: -peer.seen)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes of bundles and charters sent to peers and fetched from them."""
        return self._courier.sent, self._courier.fetched

    def close(self) -> None:
        """Leave. Within two seconds no process, thread or socket file of this node is left."""
        self._stopping = True
        self._call(self._stop.set)
        if self._thread is not None:
            self._thread.join(CLOSE_S + 0.5)
            if self._thread.is_alive():
                leftovers.reap(self._key)
            self._thread = None
        if self._port is not None:
            self._port.close()
            self._port = None

    # --- the thread's side

    def _call(self, do: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(do)

    def _find(self, kind: TransferKind, sha256: bytes) -> bytes | None:
        return self._charter if kind is TransferKind.CHARTER else self._shelf.get(sha256)

    def _is_known(self, peer: str) -> bool:
        return self._book.get(peer) is not None or bool(self._known[peer].first)

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, context: log.debug("swarm: %s", context.get("message")))
        self._loop = loop
        try:
            loop.run_until_complete(self._live())
        except BaseException as error:  # noqa: BLE001 - the trainer goes on without its swarm
            self._failure = error
            if self._started.is_set() and not self._stopping:
                self._emit(ErrorEvent(code="swarm", message=f"the swarm is out of reach: {error!r}"))
        finally:
            self._loop = None
            with contextlib.suppress(Exception):
                loop.run_until_complete(_cancel_all())
            loop.close()
            self._started.set()

    async def _live(self) -> None:
        """Live until stopped, with one overlay after another."""
        former = None
        while not self._stop.is_set():
            overlay = await self._build(former)
            if overlay is None:
                return
            try:
                await self._run_overlay(overlay, first=former is None)
            finally:
                await self._fetching.stop()
                self._contacts.remember()
                self._known.save()
                await overlay.close(patience=0.7)
            former = overlay
            if not self._stop.is_set():
                message = "hivemind's daemon p2pd died; it is started again"
                self._emit(WarningEvent(code="daemon_died", message=message))

    async def _build(self, former: Overlay | None) -> Overlay | None:
        """Return an overlay that is open, or None when stopped. Raises what the last try raised, if it is the first."""
        tries = 0
        while not self._stop.is_set():
            overlay = Overlay(self._swarm, self._access, self._book, self._news.set)
            assert self._port is not None
            try:
                opening = asyncio.create_task(overlay.open(self._key, self._port.number, self._settings, former))
                await _first(opening, self._stop.wait())
                if not opening.done():
                    await cancel_all([opening])
                    await overlay.close(patience=0.3)
                    return None
                opening.result()
                await self._courier.open(overlay)
            except Exception as error:  # whatever a daemon that does not start can raise
                await overlay.close(patience=0.3)
                tries += 1
                if former is None and tries >= _TRIES:
                    raise
                log.debug("p2pd did not start: %r", error)
                await _first(asyncio.sleep(min(2.0**tries, 30.0)), self._stop.wait())
                continue
            self._overlay = overlay
            return overlay
        return None

    async def _run_overlay(self, overlay: Overlay, *, first: bool) -> None:
        """Keep an overlay going until its daemon dies or the node stops."""
        with contextlib.suppress(Exception):
            self._addresses = tuple(await overlay.addresses())
        joining = asyncio.create_task(self._contacts.join(overlay))
        await _first(joining, asyncio.sleep(JOIN_S), self._stop.wait(), overlay.died())
        if first:
            self._announce_joined(overlay)
        self._started.set()
        self._fresh.set()
        work = [
            asyncio.create_task(self._forever(lambda: self._announce(overlay))),
            asyncio.create_task(self._forever(lambda: self._read(overlay))),
            asyncio.create_task(self._forever(lambda: self._fetch(overlay))),
            asyncio.create_task(self._forever(lambda: self._maintain(overlay))),
            asyncio.create_task(self._forever(lambda: self._watchdog(overlay))),
        ]
        try:
            await _first(self._stop.wait(), overlay.died())
        finally:
            await cancel_all([*work, joining])

    async def _forever(self, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await do()
            except Exception as error:  # noqa: BLE001 - tried again in a moment, whatever it was
                log.debug("swarm: %r", error)
                await asyncio.sleep(1.0)

    def _announce_joined(self, overlay: Overlay) -> None:
        if not overlay.neighbours and self._contacts.peers:
            message = "no peer answers yet: this node begins alone, and joins when one does"
            self._tell(WarningEvent(code="swarm_alone", message=message))

    # --- what goes on all the time

    async def _announce(self, overlay: Overlay) -> None:
        """Announce what is new, or that this node lives; once more soon when no peer has taken it."""
        self._fresh.clear()
        record, announcement = self._record()
        kept = await overlay.store(record, announcement)
        pause = HEARTBEAT_S if kept or not overlay.neighbours else 5.0
        await asyncio.sleep(LEAST_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._fresh.wait(), pause - LEAST_PAUSE_S)

    def _record(self) -> tuple[bytes, Announcement]:
        self._seq = max(int(time.time() * 1000), self._seq + int(LEAST_PAUSE_S * 1000))
        said = self._said
        announcement = Announcement(
            self.peer_id,
            self._seq,
            said.round,
            said.step,
            said.progress,
            said.label,
            self._addresses[:4],
            self._shelf.refs,
        )
        record = announcement.pack(self._identity, self._swarm)
        self._book.issue(record, announcement)
        return record, announcement

    async def _read(self, overlay: Overlay) -> None:
        await overlay.look(self._contacts.unheard(overlay.neighbours))
        self._news.set()
        await asyncio.sleep(max(LOOK_S, overlay.bytes_read / READ_PACE))

    async def _fetch(self, overlay: Overlay) -> None:
        self._news.clear()
        words = [word for _, word in self._book.newest() if word.peer != self.peer_id]
        self._fetching.look(overlay, words)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), LOOK_S)
        await asyncio.sleep(0.05)  # a burst of news is one

    async def _maintain(self, overlay: Overlay) -> None:
        met = bool(overlay.neighbours)
        await self._contacts.keep(overlay)
        if overlay.neighbours and not met:
            self._fresh.set()
        overlay.prune()
        self._book.favoured = {peer for peer, contact in self._known.items() if contact.answered}
        self._known.save(every=_SAVE_S)
        self._watch(overlay)
        await asyncio.sleep(_KEEP_S)

    async def _watchdog(self, overlay: Overlay) -> None:
        """Look whether the daemon is still itself: one that is stuck is ended, and so started again."""
        silent = 0
        while silent < _SILENCES:
            await asyncio.sleep(_FEEL_S)
            try:
                self._addresses = tuple(await overlay.addresses())
                silent = 0
            except (OSError, EOFError, TimeoutError):
                silent += 1
        overlay.kill()

    def _watch(self, overlay: Overlay) -> None:
        """Tell what an operator should know, once."""
        if self._book.foreign_seq is not None and self._book.foreign_seq > self._born_ms + 1000:
            self._tell(
                ErrorEvent(
                    code="identity_elsewhere",
                    message="another node speaks under this node's identity: one of the two must stop, and take a "
                    "new one",
                    next="swarmctl identity new",
                )
            )
        skews = sorted(overlay.skews.values())
        if len(skews) >= 2 and abs(skews[len(skews) // 2]) > _MOST_SKEW_S:
            ahead = skews[len(skews) // 2]
            message = f"this machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead'}"
            self._tell(WarningEvent(code="clock_skew", message=message))
        alive = len([peer for peer in self.peers() if peer.seen > time.time() - 2 * HEARTBEAT_S])
        if alive != self._alive_before:
            self._alive_before = alive
            self._emit(PeersEvent(peers=alive, neighbours=len(overlay.neighbours)))

    def _tell(self, event: WarningEvent | ErrorEvent) -> None:
        if event.code not in self._told:
            self._told.add(event.code)
            self._emit(event)

    async def _fetch_charter(self, timeout: float) -> bytes:
        why = "no peer has an address"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    overlay = self._overlay
                    for peer in self._contacts.peers if overlay is not None else ():
                        assert overlay is not None
                        try:
                            if not await self._contacts.connect(overlay, peer):
                                raise FetchFailed("cannot be reached")
                            envelope = await self._courier.fetch(overlay, peer, TransferKind.CHARTER, _NO_CHARTER)
                            Charter.open(envelope, self._swarm)
                            return envelope
                        except FetchFailed as error:
                            why = f"peer {peer[-6:]}: {error}"
                        except SwarmError as error:
                            why = f"peer {peer[-6:]} gave something else: {error.message}"
                    if not self._contacts.peers:
                        break
                    await asyncio.sleep(1.0)
        raise self._no_charter(why)

    def _no_charter(self, why: str) -> SwarmError:
        return SwarmError(
            f"nobody gave the charter of this swarm ({why})", next="ask for a fresh invitation: swarmctl swarm invite"
        )


def _printable(label: str) -> str:
    return "".join(character for character in label if character.isprintable())[:MAX_LABEL_CHARACTERS]


def _harmless(emit: Emit) -> Emit:
    """Return ``emit`` such that a log that cannot be written ends nothing."""

    def tell(event: Event, /) -> None:
        with contextlib.suppress(Exception):
            emit(event)

    return tell


async def _first(*things: Awaitable[object]) -> None:
    """Return when the first of these is done. Tasks go on, coroutines are cancelled."""
    tasks = {asyncio.ensure_future(thing) for thing in things}
    given = {thing for thing in things if isinstance(thing, asyncio.Future)}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(tasks - given)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=0.5) if tasks else None
