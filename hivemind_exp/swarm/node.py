"""A node's place in its swarm, as the trainer uses it.

Nothing that is called here waits for the network, except ``start`` and ``fetch_charter``, which say how long.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from hivemind.utils.logging import use_hivemind_log_handler

from hivemind_exp.config import SwarmConfig
from hivemind_exp.errors import SwarmError
from hivemind_exp.events import Emit, Event, WarningEvent
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.announcement import MAX_LABEL_CHARACTERS, Announcement, BundleRef, RecordRefused
from hivemind_exp.swarm.dht import leftovers
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.node_thread import JOIN_S, SwarmThread, no_charter
from hivemind_exp.swarm.transfer.bundle_store import Received

START_S = 240.0
"""In which a daemon must have started, tries included."""
CLOSE_S = 1.5


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
        self._identity, self._swarm, self._key, self._settings = identity, charter_id, key, settings
        self._emit = _harmless(emit)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._said = Announcement(identity.peer_id, 0, 0, 0, None, _printable(label))
        self._port: addresses.Port | None = None
        self._thread = SwarmThread(
            identity,
            charter_id,
            key=key,
            directory=directory,
            settings=settings,
            invitation=invitation,
            emit=self._emit,
            said=self._said,
        )

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
        self._thread.start(self._port.number)
        if not self._thread.joined.wait(START_S + JOIN_S) or self._thread.failure is not None:
            failure = self._thread.failure
            self.close()
            why = f"{type(failure).__name__}: {failure}" if failure is not None else "it does not answer"
            raise SwarmError(
                f"hivemind's daemon p2pd cannot be started: {why}", next="swarmctl doctor swarm"
            ) from failure

    def addresses(self) -> tuple[str, ...]:
        """Return where others reach this node, for an invitation: the widest first, each ends in /p2p/PEER."""
        return tuple(f"{address}/p2p/{self.peer_id}" for address in self._thread.addresses)

    def serve_charter(self, envelope: bytes) -> None:
        """Give the signed charter to members that ask."""
        self._thread.charter = envelope

    def fetch_charter(self, timeout: float = 60.0) -> bytes:
        """Return the signed charter from whoever has it, its hash and signature checked.

        Raises SwarmError when nobody gave it within ``timeout`` seconds.
        """
        if self._thread.loop is None:
            raise RuntimeError("fetch_charter before start")
        future = asyncio.run_coroutine_threadsafe(self._thread.fetch_charter(timeout), self._thread.loop)
        try:
            return future.result(timeout + 5)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            raise no_charter("nobody answered") from error

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
        ref = self._thread.bundle_store.put(bundle, round_=round, stage=stage, groups=groups)
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
        self._thread.announce(said)

    def take(self) -> list[Received]:
        """Return the bundles that came since the last call, each once."""
        return self._thread.inbox.take()

    def peers(self) -> list[PeerSeen]:
        """Return the peers that gave a sign of life lately, and those announced, the latest first."""
        words, known = self._thread.announced(), self._thread.known_peers
        seen = self._thread.last_seen()
        found = [PeerSeen(peer, words.get(peer), at, known[peer].reachable) for peer, at in seen.items()]
        return sorted(found, key=lambda peer: -peer.seen)

    def close(self) -> None:
        """Leave. Within two seconds no process, thread or socket file of this node is left."""
        if not self._thread.stop(CLOSE_S + 0.5):
            leftovers.reap(self._key)
        if self._port is not None:
            self._port.close()
            self._port = None


def _printable(label: str) -> str:
    return "".join(character for character in label if character.isprintable())[:MAX_LABEL_CHARACTERS]


def _harmless(emit: Emit) -> Emit:
    """Return ``emit`` such that a log that cannot be written ends nothing."""

    def tell(event: Event, /) -> None:
        with contextlib.suppress(Exception):
            emit(event)

    return tell
