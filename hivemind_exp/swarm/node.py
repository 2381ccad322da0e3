"""A node's membership in its swarm, as the trainer uses it.

No method waits for the network except ``start`` and ``fetch_charter``, which document how long they wait.
"""

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

from hivemind.utils.logging import use_hivemind_log_handler

from hivemind_exp.errors import SwarmError
from hivemind_exp.events import NoteEvent, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.announcement import BundleRef, RecordRefused
from hivemind_exp.swarm.charter_fetch import find_charter, no_charter
from hivemind_exp.swarm.dht.leftovers import kill_leftovers
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.swarm.node_thread import JOIN_S, SwarmThread
from hivemind_exp.swarm.transfer.bundle_store import Received

START_S = 240.0
"""Time limit for starting a daemon, including retries."""
CLOSE_S = 2.0


class SwarmNode(SwarmThread):
    """A node's membership in its swarm."""

    _held: socket.socket | None = None
    """Reserves the port for the daemon."""

    def start(self) -> None:
        """Join the swarm. If no peer answers, warn and start alone.

        Waits until the daemon runs (one or two seconds; minutes on an overloaded machine), then at most ``JOIN_S`` for
        the first answers.

        Raises:
            SwarmError: the port is in use, or the daemon cannot start.
        """
        use_hivemind_log_handler("nowhere")
        logging.getLogger("hivemind").setLevel(logging.CRITICAL)
        if found := kill_leftovers(self._key):
            message = f"Removed leftovers of an earlier run: {', '.join(found)}."
            self._emit(NoteEvent(code="leftovers", message=message))
        self._held = addresses.take(self._settings.port, self._directory / "port", loopback=self._settings.loopback)
        self._port, self._born_ms = self._held.getsockname()[1], int(time.time() * 1000)
        self._tell_of_another_port(addresses.invited_port(self._directory))
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)
        self._thread.start()
        if not self.joined.wait(START_S + JOIN_S) or self.failure is not None:
            failure = self.failure
            self.close()
            why = f"{type(failure).__name__}: {foreign(failure)}" if failure is not None else "it does not respond"
            raise SwarmError(f"cannot start hivemind's daemon p2pd: {why}", next="swarmctl doctor swarm") from failure

    def _tell_of_another_port(self, invited: int | None) -> None:
        """Warn if this run does not use the port in the node's invitations."""
        if self._settings.port or invited in (None, self._port):
            return
        line = Invitation(self._swarm, addresses.own_addresses(self.peer_id, self._port, self._settings))
        message = (
            f"port {invited} is in use, so this run uses port {self._port}, and this node's address in earlier "
            f"invitations does not work. The next run tries port {invited} again. New invitation: "
            f"swarmctl run --join {line}"
        )
        self._emit(WarningEvent(code="port_changed", message=message))

    def addresses(self) -> tuple[str, ...]:
        """Return this node's addresses for an invitation, those with the widest reach first. Each ends in /p2p/PEER."""
        return tuple(f"{address}/p2p/{self.peer_id}" for address in self._places)

    def fetch_charter(self, timeout: float = 60.0) -> bytes:
        """Fetch the signed charter from a peer, and check its hash and signature.

        Raises SwarmError if no peer sent it within ``timeout`` seconds.
        """
        if self.loop is None:
            raise RuntimeError("fetch_charter before start")
        fetching = find_charter(self._swarm, self.contacts, self.transfers, lambda: self.overlay, timeout)
        future = asyncio.run_coroutine_threadsafe(fetching, self.loop)
        while True:
            try:
                return future.result(1.0)
            except TimeoutError as error:
                if self.loop is None:
                    raise no_charter("no peer answered") from error
            except CancelledError as error:  # the node is closing
                raise no_charter("no peer answered") from error

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
        """Serve a bundle from now on, and announce it until peers have the announcement.

        Args:
            progress: this node's accuracy in thousandths, if known.

        Raises:
            ValueError: the bundle is empty or larger than ``MAX_BUNDLE_BYTES``, or peers would reject the announcement.
        """
        said = replace(self._said, round=round, step=step, progress=progress)
        try:
            said.pack(self._identity, self._swarm)
        except RecordRefused as error:
            raise ValueError(f"invalid announcement: {error}") from error
        ref = self.bundle_store.put(bundle, round_=round, stage=stage, groups=groups)
        self._said = said
        self._call(self._fresh.set)
        return ref

    def take(self) -> list[Received]:
        """Return the bundles that arrived since the last call, each once."""
        return self.inbox.take()

    def close(self) -> None:
        """Disconnect. After two seconds at most, no process, thread or socket file of this node remains."""
        self._stopping = True
        self._call(self._stop.set)
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                kill_leftovers(self._key)
        if self._held is not None:
            self._held.close()
