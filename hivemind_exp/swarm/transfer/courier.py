"""Carries bundles and charters from peer to peer, as streams. Both sides lose patience with whoever is slow.

A request is 89 bytes: kind, hash, nonce, time, proof of membership. An answer is a status (1 byte), a size (4 bytes,
big-endian) and that many bytes.
"""

import asyncio
import contextlib
import hashlib
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from hivemind_exp.swarm.dht.overlay import Overlay
from hivemind_exp.swarm.membership_proof import MAC_BYTES, NONCE_BYTES, MembershipProof, ProvenRequest
from hivemind_exp.swarm.token_bucket import PeerBuckets

NAME = "swarmctl.fetch.1"
MAX_CHARTER_BYTES = 128 * 1024
PATIENCE_S = 5.0
"""In which something must come, and in which the pace is not looked at."""
LEAST_PACE = 16 * 1024
"""Bytes a second, counted from the beginning. Slower is not worth the place it takes."""
LONGEST_S = 90.0
MAX_UPLOADS = 32
MAX_UPLOADS_EACH = 2
UPLOAD_PACE = (1024 * 1024.0, 64 * 1024 * 1024.0)
"""Bytes a second that one peer gets, and at once."""
_MAX_STREAMS = 128
_MAX_STREAMS_EACH = 8
_CHUNK = 64 * 1024
_ASK = struct.Struct(f">B32s{NONCE_BYTES}sd{MAC_BYTES}s")
_HEAD = struct.Struct(">BI")


class TransferKind(IntEnum):
    """What is asked for."""

    BUNDLE = 1
    CHARTER = 2


class TransferStatus(IntEnum):
    OK = 0
    ABSENT = 1
    BUSY = 2


class FetchFailed(Exception):
    """A peer did not give what it was asked for."""


@dataclass(eq=False)
class Courier:
    """Serves what ``find`` finds, and fetches from others."""

    access: MembershipProof
    find: Callable[[TransferKind, bytes], bytes | None]
    """Returns what this node has of a kind, by its hash."""
    is_known: Callable[[str], bool]
    """Whether a peer was met before. Others get half of the places at most: identities are free."""

    def __post_init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()
        self._paces = PeerBuckets(*UPLOAD_PACE)

    async def fetch(
        self, overlay: Overlay, peer: str, kind: TransferKind, sha256: bytes, size: int | None = None
    ) -> bytes:
        """Return what ``peer`` has under a hash.

        Args:
            size: bytes that it must have; None for a charter, whose size is bounded only.

        Raises:
            FetchFailed: it has not, is too slow, or it is something else.
        """
        try:
            async with asyncio.timeout(LONGEST_S):
                return await self._fetch(overlay, peer, kind, sha256, size)
        except (OSError, EOFError, TimeoutError, P2PDaemonError, ValueError) as error:
            raise FetchFailed(type(error).__name__) from error

    async def _fetch(self, overlay: Overlay, peer: str, kind: TransferKind, sha256: bytes, size: int | None) -> bytes:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await stack.enter_async_context(overlay.stream(peer, NAME))
                asked = ProvenRequest(NAME, self.access.nonce(), time.time(), bytes((kind,)) + sha256)
                writer.write(_ASK.pack(kind, sha256, asked.nonce, asked.at, self.access.ask(peer, asked)))
                status, announced = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            if status != TransferStatus.OK:
                raise FetchFailed("busy" if status == TransferStatus.BUSY else "absent")
            if announced > MAX_CHARTER_BYTES if size is None else announced != size:
                raise FetchFailed("another size than announced")
            content = await _read(reader, announced)
        if kind is TransferKind.BUNDLE and hashlib.sha256(content).digest() != sha256:
            raise FetchFailed("another content than announced")
        return content

    async def serve(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer whoever calls: the handler of streams under ``NAME``."""
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
            async with asyncio.timeout(PATIENCE_S):
                kind, sha256, nonce, at, proof = _ASK.unpack(await reader.readexactly(_ASK.size))
            if self.access.may_ask(peer, ProvenRequest(NAME, nonce, at, bytes((kind,)) + sha256), proof):
                await self._give(peer, kind, sha256, reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError):
            pass  # the caller's loss
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
            async with asyncio.timeout(PATIENCE_S + size / LEAST_PACE):
                for first in range(0, size, _CHUNK):
                    writer.write((content or b"")[first : first + _CHUNK])
                    await writer.drain()
                # The caller hangs up when it has all: the daemon drops what is under way if this end is first.
                while await reader.read(_CHUNK):
                    pass
        finally:
            self._uploads[peer] -= content is not None
            if not self._uploads[peer]:
                del self._uploads[peer]


async def _read(reader: asyncio.StreamReader, size: int) -> bytes:
    content = bytearray()
    begun = time.monotonic()
    while len(content) < size:
        async with asyncio.timeout(PATIENCE_S):
            chunk = await reader.read(min(_CHUNK, size - len(content)))
        if not chunk:
            raise FetchFailed("the stream ended early")
        content += chunk
        past = time.monotonic() - begun
        if past > PATIENCE_S and len(content) < past * LEAST_PACE:
            raise FetchFailed("too slow")
    return bytes(content)
