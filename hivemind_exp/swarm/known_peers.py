"""Peers that a node has met, on disk: what lets it come back when every address of its invitation is dead."""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.swarm.announcement import MAX_ADDRESSES, is_address
from hivemind_exp.swarm.identity import is_peer_id

MOST = 256
FORGOTTEN_S = 30 * 86_400.0
"""After so long without an answer, a peer is not remembered."""
_LARGEST = 1_000_000


@dataclass(slots=True)
class Contact:
    """What is known of reaching a peer."""

    addresses: tuple[str, ...] = ()
    first: float = 0.0
    """When it first answered, Unix seconds. 0: it never did."""
    answered: float = 0.0
    """When it last answered, Unix seconds."""
    asked: float = 0.0
    """When it was last asked, Unix seconds. Not kept on disk."""

    @property
    def reachable(self) -> bool | None:
        """Whether it answered when last asked. None: it was never asked."""
        return None if not self.asked else self.answered >= self.asked


class KnownPeers:
    """At most ``MOST`` contacts. Those that answered longest ago to now stay: names that are new push nobody out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contacts: dict[str, Contact] = {}
        self._saved = 0.0
        self._load()

    def __getitem__(self, peer: str) -> Contact:
        return self._contacts.get(peer) or Contact()

    def items(self) -> list[tuple[str, Contact]]:
        return list(self._contacts.items())

    def heard_of(self, peer: str, addresses: Iterable[str]) -> None:
        """Remember where a peer says it is."""
        contact = self._contacts.setdefault(peer, Contact())
        contact.addresses = tuple(filter(is_address, addresses))[:MAX_ADDRESSES] or contact.addresses
        if len(self._contacts) > MOST:
            self._drop()

    def asked(self, peer: str, answered: bool, now: float | None = None) -> None:
        """Remember whether a peer answered just now."""
        contact = self._contacts.setdefault(peer, Contact())
        now = time.time() if now is None else now
        contact.asked = now
        if answered:
            if now - contact.answered > FORGOTTEN_S:
                self._saved = 0.0  # a new one: who dies in the next moment must know it when it comes back
            contact.answered = now
            contact.first = contact.first or now
        if len(self._contacts) > MOST:
            self._drop()

    def save(self, *, every: float = 0.0) -> None:
        """Write the file, unless it was written less than ``every`` seconds ago. A full disk loses it, no more."""
        now = time.time()
        if now - self._saved < every:
            return
        self._saved = now
        peers = {
            peer: {"addresses": list(contact.addresses), "first": contact.first, "answered": contact.answered}
            for peer, contact in self._contacts.items()
            if now - contact.answered < FORGOTTEN_S
        }
        with contextlib.suppress(OSError):
            atomic_write.write(self._path, json.dumps({"schema": 1, "peers": peers}))

    def _drop(self) -> None:
        """Forget one: first among those that never answered, then the one that has been silent longest or is newest."""
        week = time.time() - 7 * 86_400
        worst = min(self._contacts.items(), key=lambda item: (item[1].answered > week, -item[1].first, item[1].asked))
        never = [peer for peer, contact in self._contacts.items() if not contact.first]
        del self._contacts[never[0] if never else worst[0]]

    def _load(self) -> None:
        try:
            if self._path.stat().st_size > _LARGEST:
                return
            peers = json.loads(self._path.read_bytes())["peers"]
            for peer, fields in list(peers.items())[:MOST]:
                if is_peer_id(peer):
                    addresses = tuple(filter(is_address, fields["addresses"]))[:MAX_ADDRESSES]
                    self._contacts[peer] = Contact(addresses, float(fields["first"]), float(fields["answered"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # it is a memory, not a promise: the invitation's addresses remain
