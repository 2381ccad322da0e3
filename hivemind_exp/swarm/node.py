"""A node's place in its swarm, as the trainer uses it.

Nothing that is called here waits for the network, except ``start`` and ``fetch_charter``, which say how long.
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
from hivemind_exp.events import WarningEvent
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.announcement import BundleRef, RecordRefused
from hivemind_exp.swarm.dht.overlay import reap
from hivemind_exp.swarm.node_thread import JOIN_S, SwarmThread, no_charter
from hivemind_exp.swarm.transfer.bundle_store import Received

START_S = 240.0
"""In which a daemon must have started, tries included."""
CLOSE_S = 2.0


class SwarmNode(SwarmThread):
    """A node's place in its swarm."""

    _held: socket.socket | None = None
    """Keeps the port for the daemon."""

    def start(self) -> None:
        """Join the swarm, or begin alone with a warning when nobody answers.

        Waits until the daemon runs (a second or two; minutes on a machine that is overwhelmed) and for the first
        answers, at most ``JOIN_S``.

        Raises:
            SwarmError: the port is in use, or the daemon cannot be started.
        """
        use_hivemind_log_handler("nowhere")
        logging.getLogger("hivemind").setLevel(logging.CRITICAL)
        if found := reap(self._key):
            message = f"cleared up after an earlier life: {', '.join(found)}"
            self._emit(WarningEvent(code="leftovers", message=message))
        self._held = addresses.take(self._settings.port, self._directory / "port", loopback=self._settings.loopback)
        self._port, self._born_ms = self._held.getsockname()[1], int(time.time() * 1000)
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)
        self._thread.start()
        if not self.joined.wait(START_S + JOIN_S) or self.failure is not None:
            failure = self.failure
            self.close()
            why = f"{type(failure).__name__}: {failure}" if failure is not None else "it does not answer"
            raise SwarmError(
                f"hivemind's daemon p2pd cannot be started: {why}", next="swarmctl doctor swarm"
            ) from failure

    def addresses(self) -> tuple[str, ...]:
        """Return where others reach this node, for an invitation: the widest first, each ends in /p2p/PEER."""
        return tuple(f"{address}/p2p/{self.peer_id}" for address in self._places)

    def fetch_charter(self, timeout: float = 60.0) -> bytes:
        """Return the signed charter from whoever has it, its hash and signature checked.

        Raises SwarmError when nobody gave it within ``timeout`` seconds.
        """
        if self.loop is None:
            raise RuntimeError("fetch_charter before start")
        future = asyncio.run_coroutine_threadsafe(self._find_charter(timeout), self.loop)
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
        said = replace(self._said, round=round, step=step, progress=progress)
        try:
            said.pack(self._identity, self._swarm)
        except RecordRefused as error:
            raise ValueError(f"this cannot be announced: {error}") from error
        ref = self.bundle_store.put(bundle, round_=round, stage=stage, groups=groups)
        self._said = said
        self._call(self._fresh.set)
        return ref

    def take(self) -> list[Received]:
        """Return the bundles that came since the last call, each once."""
        return self.inbox.take()

    def close(self) -> None:
        """Leave. Within two seconds no process, thread or socket file of this node is left."""
        self._stopping = True
        self._call(self._stop.set)
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                reap(self._key)
        if self._held is not None:
            self._held.close()
