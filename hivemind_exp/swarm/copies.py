"""Finds other running copies of this node where the swarm cannot: two copies that know no other peer.

A node keeps the addresses at which its identity was reachable, in a file that is part of its backup. It asks there, and
at its own addresses in the invitation, who answers with its peer id. If that is another copy, both learn of each other
from their signed announcements, and the older one stops.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.backoff import growing
from hivemind_exp.formats import FORMAT
from hivemind_exp.swarm.addresses import is_here
from hivemind_exp.swarm.announcement import Announcement, is_address
from hivemind_exp.swarm.dht.visit import AddressVisit, visit
from hivemind_exp.swarm.dial import may_answer
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm_settings import SwarmConfig

PLACES = "own-addresses.json"
"""The file with the addresses, in the node's swarm directory."""
ALONE_S = 15.0
"""Pause between two searches of a node without other peers."""
AMONG_PEERS_S = 600.0
"""Least pause between two searches of a node with peers, from which it also learns of a copy, and faster."""
_MOST = 16
_FORGOTTEN_S = 30 * 86_400.0
"""An address at which the identity has not been for this long is forgotten."""
_SAVE_S = 3600.0
_LONGEST_S = 600.0
"""The longest pause for an address at which something else answers."""
_AHEAD_MS = 5000
"""How much newer the record is that a copy is given, so that the copy accepts it even if it has just made a new one."""
_LARGEST = 100_000

log = logging.getLogger(__name__)


class OwnPlaces:
    """The addresses at which an identity was reachable, newest last, and when (Unix seconds)."""

    def __init__(self, path: Path, peer_id: str) -> None:
        self._path, self._peer = path, peer_id
        self._saved = 0.0
        self._seen: dict[str, float] = {}
        # The file is optional. A damaged one has been set aside before (``check_memory``).
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if path.stat().st_size > _LARGEST:
                return
            stored = json.loads(path.read_bytes())
            if stored["peer"] == peer_id:
                self._seen = {each: float(at) for each, at in stored["addresses"].items() if is_address(each)}

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._seen))

    def note(self, addresses: Iterable[str]) -> None:
        """Record that the identity is reachable at these addresses. Ignores errors of writing, like a full disk."""
        now, known = time.time(), set(self._seen)
        for address in filter(is_address, addresses):
            self._seen.pop(address, None)
            self._seen[address] = now
        recent = [(each, at) for each, at in self._seen.items() if now - at < _FORGOTTEN_S]
        self._seen = dict(recent[-_MOST:])
        if set(self._seen) <= known and abs(now - self._saved) < _SAVE_S:  # the clock may have been set back
            return
        self._saved = now
        body = {"schema": FORMAT, "peer": self._peer, "addresses": self._seen}
        with contextlib.suppress(OSError):
            atomic_write.write(self._path, json.dumps(body) + "\n")


@dataclass(slots=True)
class _Pause:
    """A pause before an address is tried again."""

    failures: int = 0
    until: float = 0.0
    """Monotonic seconds."""


class CopySearch:
    """Looks for other running copies of one node. Runs on the swarm's thread."""

    def __init__(
        self,
        identity: Identity,
        swarm: str,
        *,
        key: Path,
        directory: Path,
        settings: SwarmConfig,
        invitation: Iterable[str],
    ) -> None:
        """Arguments as for ``SwarmThread``."""
        self.places = OwnPlaces(directory / PLACES, identity.peer_id)
        self._identity, self._swarm, self._key, self._settings = identity, swarm, key, settings
        own = f"/p2p/{identity.peer_id}"
        self._invited = tuple(each.removesuffix(own) for each in invitation if each.endswith(own))
        self._pauses: dict[str, _Pause] = {}
        self._last: float | None = None

    async def search(self, own: Announcement, port: int, *, alone: bool) -> list[Announcement]:
        """Return the announcements of other running copies. The older ones have been given this node's.

        Does nothing if it is not time yet.

        Args:
            own: what this node announces, with its incarnation.
            port: on which this node listens.
            alone: whether it has no other peers.
        """
        now = time.monotonic()
        if not alone and self._last is not None and now - self._last < AMONG_PEERS_S:
            return []
        self._last = now
        found = []
        for address in dict.fromkeys((*self.places, *filter(is_address, self._invited))):
            if is_here(address, port, loopback=self._settings.loopback):
                continue
            pause = self._pauses.setdefault(address, _Pause())
            if time.monotonic() < pause.until or not await may_answer([address]):
                continue
            copy = await self._ask(address, own)
            if copy is None:
                longest = growing(pause.failures, first=ALONE_S, longest=_LONGEST_S)
                pause.failures, pause.until = pause.failures + 1, time.monotonic() + longest
            else:
                pause.failures = 0
                found.append(copy)
        return found

    async def _ask(self, address: str, own: Announcement) -> Announcement | None:
        """Return the announcement of the copy at an address; None if there is none, or it is this node itself."""
        relay = not self._settings.loopback and self._settings.relay
        try:
            async with visit(own.peer, address, swarm=self._swarm, key=self._key, relay=relay) as visited:
                return None if visited is None else await self._compare(visited, own)
        except Exception as error:  # noqa: BLE001 - what answers there, daemon and network can raise anything
            log.debug("no copy at a known address: %r", error)
            return None

    async def _compare(self, visited: AddressVisit, own: Announcement) -> Announcement | None:
        copy = await visited.announcement()
        if copy is None or copy.incarnation == own.incarnation:
            return None
        if copy.incarnation < own.incarnation:
            given = replace(own, seq=copy.seq + _AHEAD_MS)
            await visited.hand_over(given.pack(self._identity, self._swarm), given.expires)
        return copy
