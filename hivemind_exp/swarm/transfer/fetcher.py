"""Fetches what peers announce: concurrently, a bundle of each peer at a time, the newest first, the failing last."""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Set
from dataclasses import dataclass
from typing import Any

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.swarm.announcement import Announcement, BundleRef
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.token_bucket import TokenBucket
from hivemind_exp.swarm.transfer.bundle_store import BundleInbox, BundleStore, Received
from hivemind_exp.swarm.transfer.courier import Courier, FetchFailed, TransferKind

AT_ONCE = 24
"""Streams that fetch. A peer has one of them."""
PACE_EACH = (256 * 1024.0, 16 * 1024 * 1024.0)
"""Bytes a second taken from one peer, and at once."""
PACE = (4 * 1024 * 1024.0, 64 * 1024 * 1024.0)
"""Bytes a second taken from all of them."""
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 900.0
_FORGIVEN = 3
"""Failures in a row that count for nothing in a peer that has served before: it may be busy, or restarting."""
_OTHERS = 2
"""Peers that are asked for a bundle when its author does not give it."""


@dataclass(slots=True)
class _Author:
    pace: TokenBucket
    failures: int = 0
    """In a row."""
    served: bool = False
    """Whether it ever gave what it announced."""
    until: float = 0.0
    """Not asked before (monotonic seconds)."""
    was_away: bool = False
    """It failed for not being there, which it is not to blame for."""


class _Away(FetchFailed):
    """There is no way to the peer."""


@dataclass(eq=False)
class BundleFetcher:
    """Brings bundles from the network to the inbox. All of it on the DHT's thread."""

    courier: Courier
    store: BundleStore
    inbox: BundleInbox
    connect: Callable[[Overlay, str], Awaitable[bool]]
    """A coroutine function that connects to a peer and says whether it could."""
    on_room: Callable[[], None]
    """Called when there is room for another: time for the next ``look``."""

    def __post_init__(self) -> None:
        self._authors: dict[str, _Author] = {}
        self.running: dict[str, asyncio.Task[None]] = {}
        self._pace = TokenBucket(*PACE)
        self.failures = 0

    def look(self, overlay: Overlay, announcements: Iterable[Announcement]) -> None:
        """Start fetching what is new in ``announcements``, as far as there is room."""
        now = time.monotonic()
        current = {announcement.peer: announcement for announcement in announcements}
        for peer in [peer for peer in self._authors if peer not in current]:
            del self._authors[peer]
        wanted, near = [], overlay.neighbours
        for peer, announcement in current.items():
            author = self._authors.get(peer)
            if peer in self.running or (author is not None and author.until > now):
                continue
            ref = next((ref for ref in reversed(announcement.bundles) if self.inbox.wants(peer, ref)), None)
            if ref is not None:
                failures = 0 if author is None else max(0, author.failures - _FORGIVEN * author.served)
                wanted.append((failures, peer not in near, random.random(), peer, ref))
        # Those that never failed come first, of these the ones that answer as members do: a crowd of names that nobody
        # has spoken to yet waits behind them, and one that never serves behind all.
        for failures, _, _, peer, ref in sorted(wanted, key=lambda item: item[:3]):
            room = AT_ONCE if not failures else AT_ONCE // 2
            if len(self.running) >= room:
                break
            author = self._authors.setdefault(peer, _Author(TokenBucket(*PACE_EACH)))
            if author.pace.take(ref.size):
                if not self._pace.take(ref.size):
                    break
                task = asyncio.create_task(self._fetch(overlay, peer, ref, current.keys() - {peer}, author))
                self.running[peer] = task
                task.add_done_callback(functools.partial(self._done, peer))

    def _done(self, peer: str, _task: asyncio.Task[None]) -> None:
        self.running.pop(peer, None)
        self.on_room()

    def forgive(self, peer: str) -> None:
        """A peer has answered: if it failed for not being there, it is asked again at once. Others stay where they are.

        Or a node that was cut off for minutes would go unheard for as long again.
        """
        author = self._authors.get(peer)
        if author is not None and author.was_away:
            author.failures, author.until, author.was_away = 0, 0.0, False
            self.on_room()

    async def _fetch(self, overlay: Overlay, peer: str, ref: BundleRef, others: Set[str], author: _Author) -> None:
        try:
            data = await self._get(overlay, peer, ref)
            author.failures, author.served = 0, True
        except FetchFailed as failed:
            author.failures += 1
            author.was_away = isinstance(failed, _Away)
            pause = growing(author.failures - 1, first=_FIRST_PAUSE_S, longest=_LONGEST_PAUSE_S)
            author.until = time.monotonic() + jittered(pause, 0.2)
            self.failures += 1
            found = await self._ask_others(overlay, ref, others)
            if found is None:
                return
            data = found
        self.store.pass_on(ref.sha256, data)
        self.inbox.put(Received(peer, ref, data))

    async def _ask_others(self, overlay: Overlay, ref: BundleRef, others: Set[str]) -> bytes | None:
        good = [peer for peer in others if (known := self._authors.get(peer)) is None or not known.failures]
        for peer in random.sample(good, min(_OTHERS, len(good))):
            with contextlib.suppress(FetchFailed):
                return await self._get(overlay, peer, ref)
        return None

    async def _get(self, overlay: Overlay, peer: str, ref: BundleRef) -> bytes:
        if not await self.connect(overlay, peer):
            raise _Away("cannot be reached")
        return await self.courier.fetch(overlay, peer, TransferKind.BUNDLE, ref.sha256, ref.size)


AGAIN_S = 0.2


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and again, until all are done.

    Once is not enough before Python 3.12: ``wait_for`` drops a cancellation that comes just as what it waits for is
    done, as when a daemon dies and everything that asked it fails at that moment.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
