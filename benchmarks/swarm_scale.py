"""Measure publishing and reading one round of a swarm of 2 to 100 peers, compared with the reference's scheme.

Our scheme: each peer has a signed announcement in one of 8 dictionaries, read with a few find requests, and one bundle,
which is streamed. The reference's scheme, with the same content: each peer has a dictionary with one subkey per
question, read with one ``get`` after another, in unmodified hivemind.

Up to ``--real`` peers are real daemons, each with a DHT node. The other peers are only identities, whose records and
bundles the real peers write and serve. The reader is one more real peer, which joins afterwards and starts without any
data. Bytes are those that crossed the loopback device, including frames and encryption, in a network namespace that
only this process uses. This needs root on Linux; without it, other traffic on loopback is counted, too.

Loopback has no latency. With ``--round-trip``, each request waits that long before it is sent, in both schemes. Opening
a stream counts as two requests.

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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind.dht import DHTNode
from hivemind.p2p import P2P
from hivemind.utils.logging import use_hivemind_log_handler

from hivemind_exp.swarm.announcement import MAX_BUNDLES, SHARDS, Announcement, AnnouncementBook, BundleRef
from hivemind_exp.swarm.dht.guard import MAX_KEYS
from hivemind_exp.swarm.dht.overlay import READERS, REPLICAS, Overlay
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.transfer.bundle_store import BundleStore
from hivemind_exp.swarm.transfer.peer_transfers import AT_ONCE, NAME, PeerTransfers, TransferKind
from hivemind_exp.swarm_settings import SwarmConfig

SWARM = "5a" * 32
BAR_S = 2.0
QUESTIONS = 8
GROUP_SIZE = 8
COMPLETION_BYTES = 400
LIFETIME_S = 300.0
CALL_BYTES = 1350
"""Overhead of a request and its answer, in addition to their content: proofs, encryption, frames."""
NEIGHBOUR_BYTES = 62
ENTRY_BYTES = 70
"""Overhead of a record in a dictionary."""
STREAM_BYTES = 1500
"""Overhead of a stream and the request in it."""


@dataclass(slots=True)
class Cost:
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:6.2f} s {self.bytes / 1e3:6.0f} K"


@dataclass(slots=True)
class Round:
    """What a round costs in our scheme."""

    publish: Cost
    read: Cost
    """Reading by a peer that just joined, including connecting and finding the dictionaries."""
    again: Cost
    """Reading again by the same peer."""
    bundles: Cost
    record: int
    """Size of a record in bytes."""


class Peer:
    """A real daemon with a guarded DHT node that serves bundles."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.key = directory / "identity.key"
        self.identity = Identity.create(self.key)
        self.book = AnnouncementBook(SWARM, self.identity.peer_id)
        access = MembershipProof(SWARM, self.identity.peer_id)
        self.overlay = Overlay(SWARM, access, self.book, lambda: None)
        self.shelf = BundleStore()
        self.transfers = PeerTransfers(access, lambda _kind, sha256: self.shelf.get(sha256), lambda _peer: True)

    async def open(self, others: list[Peer]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await self.overlay.open(self.key, port, SwarmConfig(loopback=True))
        await self.overlay.serve_streams(NAME, self.transfers.serve)
        for other in others[:3]:
            await self.overlay.connect(other.identity.peer_id, await other.overlay.addresses())
            await self.overlay.ping(other.identity.peer_id)
        await self.overlay.find_neighbors()


def isolate() -> bool:
    """Move this process into a separate network namespace that has only loopback. Return whether that worked."""
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")
        fcntl.ioctl(any_socket, 0x8914, up)
    return True


async def measure(work: Awaitable[object]) -> Cost:
    """Measure the cost of awaiting ``work``."""
    begun, before = time.perf_counter(), crossed()
    await work
    return Cost(time.perf_counter() - begun, crossed() - before)


def crossed() -> int:
    """Return the number of bytes that have crossed loopback so far."""
    # Not from /sys, which shows the network namespace of the process that mounted it.
    for line in Path("/proc/net/dev").read_text().splitlines() if sys.platform == "linux" else ():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def contents(peers: int) -> list[list[bytes]]:
    """Return what each peer shares in a round: one group of completions per question."""
    return [[os.urandom(GROUP_SIZE * COMPLETION_BYTES) for _ in range(QUESTIONS)] for _ in range(peers)]


async def here(directory: Path, said: list[list[bytes]], real: int) -> Round:
    """Return what a round costs in our scheme."""
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
            # ``put`` is for a peer's own bundles. Bundles that it serves for others are added with ``pass_on``.
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
        for peer in peers * 2:  # as in any round but the first: the peers are connected and know where to look
            await peer.overlay.look()
        publish_cost = await measure(_pooled(publishing, len(peers)))
        reader = Peer(directory / "here-reader")
        stack.push_async_callback(reader.overlay.close)
        await reader.open(peers)
        read_cost = await measure(reader.overlay.look())
        found = {word.peer for _, word in reader.book.newest()}
        assert found >= {author.peer_id for author in authors}, f"{len(found)} of {len(authors)} read"
        await reader.overlay.look()  # by now it is connected to more peers
        again_cost = await measure(reader.overlay.look())

        def fetching(peer: Peer, ref: BundleRef) -> Callable[[], Awaitable[bytes]]:
            async def fetch() -> bytes:
                name = peer.identity.peer_id
                await reader.overlay.connect(name, await peer.overlay.addresses())
                return await reader.transfers.fetch(reader.overlay, name, TransferKind.BUNDLE, ref.sha256, ref.size)

            return fetch

        fetch_cost = await measure(_pooled([fetching(peer, ref) for peer, ref in wanted], AT_ONCE))
        return Round(publish_cost, read_cost, again_cost, fetch_cost, size)


async def reference(said: list[list[bytes]], real: int) -> tuple[Cost, Cost]:
    """Return what it costs to publish and to read the same content in the reference's scheme."""
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


async def _pooled(work: Sequence[Callable[[], Awaitable[object]]], at_once: int) -> None:
    """Run all of ``work``, ``at_once`` at a time. Raises the first exception."""
    places = asyncio.Semaphore(at_once)

    async def one(do: Callable[[], Awaitable[object]]) -> None:
        async with places:
            await do()

    await asyncio.gather(*map(one, work))


def model(peers: int, real: int, record: int) -> tuple[float, float, float]:
    """Return the bytes that docs/swarm-wire.md predicts for publishing, for reading again, and for all bundles."""
    keepers = min(real - 1, REPLICAS)
    publish = peers * keepers * (record + CALL_BYTES)
    asked = SHARDS * min(READERS, real)
    # If one peer keeps several of the dictionaries, they are requested in one message.
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
    Overlay.stream = stream_later  # type: ignore[method-assign, assignment]


async def run(peers: list[int], real: int) -> float:
    slowest = 0.0
    print(f"{'':10} | {'publish':>16} {'read, new':>16} {'read again':>16} {'bundles':>16} {'total':>7}", end="")
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
    parser.add_argument("--real", type=int, default=16, help="maximum number of real daemons")
    parser.add_argument(
        "--round-trip", type=float, default=0.0, metavar="MS", help="delay before each request, in milliseconds"
    )
    options = parser.parse_args()
    use_hivemind_log_handler("nowhere")
    if not isolate():
        print("warning: no separate network namespace, so the bytes include all loopback traffic on this machine")
    if options.round_trip:
        distance(options.round_trip / 1000)
    slowest = asyncio.run(run(options.peers, options.real))
    print(f"slowest read of a round: {slowest:.2f} s, {slowest / BAR_S:.2f} x the limit of {BAR_S:g} s")


if __name__ == "__main__":
    main()
