"""One round of a swarm, published and read, for 2 to 100 peers. Beside it the reference's scheme on the same content.

Here: a signed announcement a peer in one of 8 dictionaries, read with a few finds, and a bundle a peer, streamed.
The reference: a dictionary a peer, a subkey a question, one ``get`` after another, in hivemind as it comes.

As many peers as ``--real`` are real daemons with a DHT node each. The others are identities of their own, whose records
and bundles the real ones write and serve. The reader is one more real one, which joins afterwards and knows nothing.
Bytes are what crossed the loopback device, frames and encryption included, in a network namespace of this process
alone (needs root on Linux; elsewhere other traffic on loopback is counted as well).

Loopback has no distance. With ``--round-trip`` each request waits that long before it is sent, in both schemes; opening
a stream counts as two.

    python -m benchmarks.swarm_scale
    python -m benchmarks.swarm_scale --peers 100 --round-trip 50
    python -m benchmarks.swarm_scale --peers 2 100 --real 32
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind.dht import DHTNode
from hivemind.p2p import P2P
from hivemind.utils.logging import use_hivemind_log_handler

from hivemind_exp.config import SwarmConfig
from hivemind_exp.swarm.announcement import MAX_BUNDLES, SHARDS, Announcement, AnnouncementBook, BundleRef
from hivemind_exp.swarm.dht.guard import MAX_KEYS
from hivemind_exp.swarm.dht.overlay import READERS, REPLICAS, Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.transfer.bundle_store import BundleStore
from hivemind_exp.swarm.transfer.courier import AT_ONCE, NAME, Courier, TransferKind

SWARM = "5a" * 32
BAR_S = 2.0
QUESTIONS = 8
GROUP_SIZE = 8
COMPLETION_BYTES = 400
LIFETIME_S = 300.0
CALL_BYTES = 1350
"""Of a request and its answer, besides what they carry: proofs, encryption, frames."""
NEIGHBOUR_BYTES = 62
ENTRY_BYTES = 70
"""What a dictionary adds to a record."""
STREAM_BYTES = 1500
"""Of a stream and the request in it."""


@dataclass(slots=True)
class Cost:
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:6.2f} s {self.bytes / 1e3:6.0f} K"


@dataclass(slots=True)
class Round:
    """What a round costs here."""

    publish: Cost
    read: Cost
    """By somebody who just joined: connections and the way to the dictionaries included."""
    again: Cost
    """A later look of the same reader."""
    bundles: Cost
    record: int
    """Bytes of a record."""


class Peer:
    """A real daemon with a guarded DHT node, and bundles to serve."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.key = directory / "identity.key"
        self.identity = Identity.create(self.key)
        self.book = AnnouncementBook(SWARM, self.identity.peer_id)
        access = MembershipProof(SWARM, self.identity.peer_id)
        self.overlay = Overlay(SWARM, access, self.book, lambda: None)
        self.shelf = BundleStore()
        self.courier = Courier(access, lambda _kind, sha256: self.shelf.get(sha256), lambda _peer: True)

    async def open(self, others: list[Peer]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await self.overlay.open(self.key, port, SwarmConfig(loopback=True))
        await self.overlay.serve_streams(NAME, self.courier.serve)
        for other in others[:3]:
            await self.overlay.connect(other.identity.peer_id, await other.overlay.addresses())
            await self.overlay.ping(other.identity.peer_id)
        await self.overlay.settle()


def isolate() -> bool:
    """Give this process a network of its own, which is nothing but loopback. Returns whether that worked."""
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")
        fcntl.ioctl(any_socket, 0x8914, up)
    return True


async def measure(work: Awaitable[object]) -> Cost:
    """Measure what is awaited."""
    begun, before = time.perf_counter(), crossed()
    await work
    return Cost(time.perf_counter() - begun, crossed() - before)


def crossed() -> int:
    """Return the bytes that crossed loopback so far."""
    # Not from /sys, which shows the namespace of whoever mounted it.
    for line in Path("/proc/net/dev").read_text().splitlines() if sys.platform == "linux" else ():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def contents(peers: int) -> list[list[bytes]]:
    """Return what each peer says in a round: a group of completions a question."""
    return [[os.urandom(GROUP_SIZE * COMPLETION_BYTES) for _ in range(QUESTIONS)] for _ in range(peers)]


async def here(directory: Path, said: list[list[bytes]], real: int) -> Round:
    """Return what a round costs in this project's way."""
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        for number in range(min(real, len(said))):
            peer = Peer(directory / f"here-{number}")
            stack.push_async_callback(peer.overlay.close)
            await peer.open(peers)
            peers.append(peer)
        authors = [peer.identity for peer in peers]
        authors += [Identity.generate() for _ in range(len(said) - len(peers))]
        wanted: list[tuple[Peer, BundleRef]] = []
        publishing: list[Callable[[], Awaitable[int]]] = []
        size = 0
        for number, (author, groups) in enumerate(zip(authors, said, strict=True)):
            peer = peers[number % len(peers)]
            # A real peer's shelf has its own bundles only: what it serves for others, it has from them.
            ref = BundleStore().put(b"".join(groups), round_=7, stage=0, groups=len(groups))
            peer.shelf.pass_on(ref.sha256, b"".join(groups))
            wanted.append((peer, ref))
            earlier = tuple(BundleRef(at, 0, os.urandom(32), ref.size, QUESTIONS) for at in range(MAX_BUNDLES - 1))
            address = tuple(await peer.overlay.addresses())
            word = Announcement(author.peer_id, int(time.time() * 1000), 7, 7, 500, "policy", address, (*earlier, ref))
            record = word.pack(author, SWARM)
            size = len(record)

            async def publish(peer: Peer = peer, record: bytes = record, word: Announcement = word) -> int:
                return await peer.overlay.store(record, word)

            publishing.append(publish)
        for peer in peers * 2:  # as in any round but the first: they have met, and know the way
            await peer.overlay.look()
        publish_cost = await measure(_pooled(publishing, len(peers)))
        reader = Peer(directory / "here-reader")
        stack.push_async_callback(reader.overlay.close)
        await reader.open(peers)
        read_cost = await measure(reader.overlay.look())
        found = {word.peer for _, word in reader.book.newest()}
        assert found >= {author.peer_id for author in authors}, f"{len(found)} of {len(authors)} read"
        await reader.overlay.look()  # it has met more of them by now
        again_cost = await measure(reader.overlay.look())

        def fetching(peer: Peer, ref: BundleRef) -> Callable[[], Awaitable[bytes]]:
            async def fetch() -> bytes:
                name = peer.identity.peer_id
                await reader.overlay.connect(name, await peer.overlay.addresses())
                return await reader.courier.fetch(reader.overlay, name, TransferKind.BUNDLE, ref.sha256, ref.size)

            return fetch

        fetch_cost = await measure(_pooled([fetching(peer, ref) for peer, ref in wanted], AT_ONCE))
        return Round(publish_cost, read_cost, again_cost, fetch_cost, size)


async def reference(said: list[list[bytes]], real: int) -> tuple[Cost, Cost]:
    """Return what it costs to publish and to read the same in the reference's way."""
    private = {"nat_port_map": False, "auto_nat": False, "use_relay": False}
    async with AsyncExitStack() as stack:
        nodes: list[DHTNode] = []
        for _ in range(min(real, len(said)) + 1):
            others = [str(address) for node in nodes[:3] for address in await node.get_visible_maddrs()]
            node = await DHTNode.create(initial_peers=others or None, **private)
            stack.push_async_callback(node.shutdown)
            nodes.append(node)
        *writers, reader = nodes
        expires = time.time() + LIFETIME_S

        def publishing(number: int, groups: list[bytes]) -> Callable[[], Awaitable[object]]:
            async def publish() -> None:
                node = writers[number % len(writers)]
                for question, outputs in enumerate(groups):
                    await node.store(f"outputs {number} 7 0", outputs, expires, subkey=str(question))

            return publish

        publish_cost = await measure(
            _pooled([publishing(number, groups) for number, groups in enumerate(said)], len(writers))
        )

        async def read() -> None:
            for number, groups in enumerate(said):
                found = await reader.get(f"outputs {number} 7 0")
                assert found is not None
                assert {item.value for item in found.value.values()} <= set(groups)

        return publish_cost, await measure(read())


async def _pooled(work: list[Callable[[], Awaitable[object]]], at_once: int) -> None:
    """Do all of it, ``at_once`` at a time. Raises what the first that fails raises."""
    places = asyncio.Semaphore(at_once)

    async def one(do: Callable[[], Awaitable[object]]) -> None:
        async with places:
            await do()

    await asyncio.gather(*map(one, work))


def model(peers: int, real: int, record: int) -> tuple[float, float, float]:
    """Return the bytes that docs/swarm-wire.md expects for publishing, for a look, and for all bundles."""
    keepers = min(real - 1, REPLICAS)
    publish = peers * keepers * (record + CALL_BYTES)
    asked = SHARDS * min(READERS, real)
    # Of so many keepers of dictionaries, those that are the same peer are asked in one message.
    calls = max(real * (1 - (1 - 1 / real) ** asked), asked / MAX_KEYS)
    finds = calls * CALL_BYTES + asked * NEIGHBOUR_BYTES * min(20, real)
    look = min(READERS, real) * peers * (record + ENTRY_BYTES) + finds
    fetch = peers * (QUESTIONS * GROUP_SIZE * COMPLETION_BYTES + STREAM_BYTES)
    return publish, look, fetch


def distance(seconds: float) -> None:
    """Make every request wait before it is sent."""
    call, stream = P2P._call_unary_protobuf_handler, Overlay.stream

    async def call_later(self: P2P, *arguments: Any) -> Any:
        await asyncio.sleep(seconds)
        return await call(self, *arguments)

    @contextlib.asynccontextmanager
    async def stream_later(self: Overlay, *arguments: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(2 * seconds)
        async with stream(self, *arguments) as opened:
            yield opened

    P2P._call_unary_protobuf_handler = call_later
    Overlay.stream = stream_later  # type: ignore[method-assign]


async def run(peers: list[int], real: int) -> float:
    slowest = 0.0
    print(f"{'':10} | {'publish':>16} {'read, new':>16} {'read again':>16} {'bundles':>16} {'in all':>7}", end="")
    print(f" | {'ref.: publish':>16} {'read':>16} | {'ref. / here':>11} | model: publish, read again, bundles")
    for count in peers:
        said = contents(count)
        with tempfile.TemporaryDirectory() as directory:
            here_ = await here(Path(directory), said, real)
        old_publish, old_read = await reference(said, real)
        total = here_.read.seconds + here_.bundles.seconds
        slowest = max(slowest, total)
        expected = ", ".join(f"{value / 1e3:.0f} K" for value in model(count, min(real, count), here_.record))
        print(
            f"{count:4d} ({min(real, count):2d})  | {here_.publish} {here_.read} {here_.again} {here_.bundles}", end=""
        )
        print(f" {total:5.2f} s | {old_publish} {old_read} | {old_read.seconds / total:11.1f} | {expected}", flush=True)
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 5, 10, 20, 50, 100])
    parser.add_argument("--real", type=int, default=16, help="daemons at most")
    parser.add_argument("--round-trip", type=float, default=0.0, metavar="MS", help="milliseconds")
    options = parser.parse_args()
    use_hivemind_log_handler("nowhere")
    if not isolate():
        print("not alone on loopback: the bytes are those of everybody on this machine")
    if options.round_trip:
        distance(options.round_trip / 1000)
    slowest = asyncio.run(run(options.peers, options.real))
    print(f"slowest read of a round: {slowest:.2f} s, {slowest / BAR_S:.2f} of the bar of {BAR_S:g} s")


if __name__ == "__main__":
    main()
