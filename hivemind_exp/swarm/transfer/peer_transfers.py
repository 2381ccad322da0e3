"""Transfers bundles and charters between peers, as streams. Both sides end a stream that is too slow.

A request has 89 bytes: kind, hash, nonce, time, proof of membership. An answer is a status (1 byte), a size (4 bytes,
big-endian) and that many bytes. Announced bundles are fetched concurrently, one at a time per peer: each peer's newest
first, and peers that failed last.
"""

import asyncio
import contextlib
import functools
import hashlib
import random
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass
from enum import IntEnum

from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.patience import patient
from hivemind_exp.swarm.announcement import Announcement, BundleRef
from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.membership_proof import MAC_BYTES, NONCE_BYTES, MembershipProof, ProvenRequest
from hivemind_exp.swarm.token_bucket import PeerBuckets, TokenBucket
from hivemind_exp.swarm.transfer.bundle_store import BundleInbox, BundleStore, Received

NAME = "swarmctl.fetch.1"
MAX_CHARTER_BYTES = 128 * 1024
PATIENCE_S = 5.0
"""Within this time, the next bytes must arrive. The pace is only checked after this time."""
LEAST_PACE = 16 * 1024
"""Minimum bytes per second, averaged from the start. A slower transfer is not worth the stream that it occupies."""
LONGEST_S = 90.0
MAX_UPLOADS = 32
MAX_UPLOADS_EACH = 2
UPLOAD_PACE = (1024 * 1024.0, 64 * 1024 * 1024.0)
"""Bytes sent to one peer: per second, and at once."""
AT_ONCE = 24
"""Number of concurrent fetches, at most one per peer."""
PACE_EACH = (256 * 1024.0, 16 * 1024 * 1024.0)
"""Bytes fetched from one peer: per second, and at once."""
PACE = (4 * 1024 * 1024.0, 64 * 1024 * 1024.0)
"""Bytes fetched from all peers: per second, and at once."""
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 900.0
_FORGIVEN = 3
"""Number of failures in a row that are ignored for a peer that has served before: it may be busy, or restarting."""
_OTHERS = 2
"""Number of other peers to ask for a bundle if its author does not send it."""
_MAX_STREAMS = 128
_MAX_STREAMS_EACH = 8
_CHUNK = 64 * 1024
_ASK = struct.Struct(f">B32s{NONCE_BYTES}sd{MAC_BYTES}s")
_HEAD = struct.Struct(">BI")


class TransferKind(IntEnum):
    """What a peer asks for. The values are sent."""

    BUNDLE = 1
    CHARTER = 2


class TransferStatus(IntEnum):
    """How a peer answers a request for a file. The values are sent."""

    OK = 0
    ABSENT = 1
    BUSY = 2


class FetchFailed(Exception):
    """A peer did not send the requested content."""


@dataclass(eq=False)
class PeerTransfers:
    """Serves the content that ``find`` returns, and fetches content from peers."""

    access: MembershipProof
    find: Callable[[TransferKind, bytes], bytes | None]
    """Returns this node's content of a kind, by its hash."""
    is_known: Callable[[str], bool]
    """Whether a peer was met before. Unknown peers get at most half of the streams and uploads, because identities cost
    nothing."""

    def __post_init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()
        self._paces = PeerBuckets(*UPLOAD_PACE)

    async def fetch(
        self, overlay: Overlay, peer: str, kind: TransferKind, sha256: bytes, size: int | None = None
    ) -> bytes:
        """Fetch content from ``peer`` by its hash.

        Args:
            size: the expected size in bytes; None for a charter, whose size only has an upper bound.

        Raises:
            FetchFailed: the peer does not have it, is busy or too slow, or sent something else.
        """
        try:
            async with patient(LONGEST_S) as passed, contextlib.AsyncExitStack() as stack:
                async with patient(PATIENCE_S):
                    reader, writer = await stack.enter_async_context(overlay.stream(peer, NAME))
                    asked = ProvenRequest(NAME, self.access.nonce(), time.time(), bytes((kind,)) + sha256)
                    writer.write(_ASK.pack(kind, sha256, asked.nonce, asked.at, self.access.ask(peer, asked)))
                    status, announced = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                if status != TransferStatus.OK:
                    raise FetchFailed("busy" if status == TransferStatus.BUSY else "does not have it")
                if announced > MAX_CHARTER_BYTES if size is None else announced != size:
                    raise FetchFailed("sent an unexpected size")
                content = await _read(reader, announced, passed)
        except (OSError, EOFError, TimeoutError, P2PDaemonError, ValueError) as error:
            raise TransferBroken(f"the transfer failed ({type(error).__name__})") from error
        if kind is TransferKind.BUNDLE and hashlib.sha256(content).digest() != sha256:
            raise FetchFailed("sent content with another hash")
        return content

    async def serve(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a request: the handler for streams under ``NAME``."""
        open_ = self._streams.total()
        if (
            open_ >= _MAX_STREAMS
            or self._streams[peer] >= _MAX_STREAMS_EACH
            or (open_ >= _MAX_STREAMS // 2 and not self.is_known(peer))
        ):
            writer.transport.abort()
            return
        self._streams[peer] += 1
        try:
            async with patient(PATIENCE_S):
                kind, sha256, nonce, at, proof = _ASK.unpack(await reader.readexactly(_ASK.size))
            if self.access.may_ask(peer, ProvenRequest(NAME, nonce, at, bytes((kind,)) + sha256), proof):
                await self._give(peer, kind, sha256, reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError):
            pass  # only this caller is affected
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]
            writer.transport.abort()

    async def _give(
        self, peer: str, kind: int, sha256: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        content = self.find(TransferKind(kind), sha256)
        status = TransferStatus.OK if content is not None else TransferStatus.ABSENT
        size = len(content or b"")
        room = MAX_UPLOADS if self.is_known(peer) else MAX_UPLOADS // 2
        full = self._uploads.total() >= room or self._uploads[peer] >= MAX_UPLOADS_EACH
        if content is not None and (full or not self._paces.take(peer, size)):
            status, content, size = TransferStatus.BUSY, None, 0
        writer.write(_HEAD.pack(status, size))
        self._uploads[peer] += content is not None
        try:
            async with patient(PATIENCE_S + size / LEAST_PACE):
                for first in range(0, size, _CHUNK):
                    writer.write((content or b"")[first : first + _CHUNK])
                    await writer.drain()
                # Let the caller close the stream: if this end closes first, the daemon drops data in transit.
                while await reader.read(_CHUNK):
                    pass
        finally:
            self._uploads[peer] -= content is not None
            if not self._uploads[peer]:
                del self._uploads[peer]


async def _read(reader: asyncio.StreamReader, size: int, passed: Callable[[], float]) -> bytes:
    """Read ``size`` bytes. ``passed`` returns the seconds of the transfer so far."""
    content = bytearray()
    begun = passed()
    while len(content) < size:
        async with patient(PATIENCE_S):
            chunk = await reader.read(min(_CHUNK, size - len(content)))
        if not chunk:
            raise FetchFailed("the stream ended early")
        content += chunk
        past = passed() - begun
        if past > PATIENCE_S and len(content) < past * LEAST_PACE:
            raise FetchFailed("too slow")
    return bytes(content)


@dataclass(slots=True)
class _Author:
    pace: TokenBucket
    failures: int = 0
    """Number of failures in a row."""
    served: bool = False
    """Whether it ever sent a bundle that it announced."""
    until: float = 0.0
    """When it may be asked again (monotonic seconds)."""
    was_away: bool = False
    """Whether the last failure was that it could not be reached, which is not its fault."""


class _Away(FetchFailed):
    """The peer cannot be reached."""


class TransferBroken(FetchFailed):
    """The transfer began, but did not end."""


@dataclass(eq=False)
class BundleFetcher:
    """Fetches announced bundles into the inbox. Everything runs on the DHT's thread."""

    transfers: PeerTransfers
    store: BundleStore
    inbox: BundleInbox
    connect: Callable[[Overlay, str], Awaitable[bool]]
    """Coroutine function that connects to a peer and returns whether it succeeded."""
    check: Callable[[Overlay, str], Awaitable[bool]]
    """Coroutine function that returns whether a peer answers."""
    on_room: Callable[[], None]
    """Called when another fetch may start: time for the next ``look``."""

    def __post_init__(self) -> None:
        self._authors: dict[str, _Author] = {}
        self.running: dict[str, asyncio.Task[None]] = {}
        self._pace = TokenBucket(*PACE)
        self.failures = 0

    def look(self, overlay: Overlay, announcements: Iterable[Announcement]) -> None:
        """Start fetching new bundles in ``announcements``, up to the limits."""
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
        # Peers that never failed come first, and neighbors first of all: they have proved that they are members. A
        # crowd of new peer ids waits behind them, and peers that never serve come last.
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
        """Called when a peer answers. If it failed because it could not be reached, it is asked again at once.

        Otherwise, a peer that was cut off for minutes would be ignored for as long again.
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
            if isinstance(failed, TransferBroken):  # is the peer gone or frozen, or does it only not serve this?
                author.was_away = not await self.check(overlay, peer)
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
        return await self.transfers.fetch(overlay, peer, TransferKind.BUNDLE, ref.sha256, ref.size)
