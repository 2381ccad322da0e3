"""libp2p's daemon p2pd: a process that connects to peers under one identity."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hivemind.dht.protocol import DHTProtocol
from hivemind.p2p import P2P, PeerID, ServicerBase
from hivemind.utils.multiaddr import Multiaddr

from hivemind_exp.patience import within
from hivemind_exp.swarm.dht.leftovers import socket_prefix

CONNECT_S = 5.0
_STARTUP_S = 60.0
_BEGIN_S = 0.1
"""Pause between two looks whether the process exists already."""


class Daemon:
    """A daemon. It runs from ``start`` to ``close``."""

    def __init__(self) -> None:
        self._p2p: P2P = None
        """None until ``start`` has created it."""

    async def start(self, key: Path, **options: Any) -> None:
        """Start the daemon.

        Args:
            key: the node's key file, which marks the daemon's sockets (``leftovers``).
            options: as for hivemind's ``P2P.create``.

        Raises any exception of hivemind and the system.
        """
        daemon = self

        class Registered(P2P):  # type: ignore[misc]
            """Registers itself at once: hivemind loses a daemon whose start fails or is cancelled."""

            _UNIX_SOCKET_PREFIX = f"/unix{socket_prefix(key)}"

            def __init__(self) -> None:
                super().__init__()
                daemon._p2p = self

        self._p2p = await Registered.create(startup_timeout=_STARTUP_S, **options)

    @property
    def peer_id(self) -> str:
        """The peer id under which it connects."""
        return str(self._p2p.peer_id)

    @property
    def sockets(self) -> list[Path]:
        """The socket files that connect this process and the daemon."""
        return [Path(str(each["unix"])) for each in (self._p2p._daemon_listen_maddr, self._p2p._client_listen_maddr)]

    async def died(self) -> None:
        """Return when its process has ended, also if that happens while it starts."""
        while self._p2p is None or self._p2p._child is None:
            await asyncio.sleep(_BEGIN_S)
        await self._p2p._child.wait()

    async def close(self, patience: float = 1.0) -> None:
        """Stop the daemon, by force after ``patience`` seconds."""
        if self._p2p is None:
            return
        try:
            await asyncio.wait_for(self._p2p.shutdown(), patience)
        except TimeoutError:
            self.kill()
            await self._p2p._child.wait()
        if self._p2p._child is not None:
            # hivemind leaves its end of the pipe open, and it would be closed only after the loop has ended.
            self._p2p._child._transport.close()
        for socket in self.sockets:
            socket.unlink(missing_ok=True)

    def kill(self) -> None:
        if self._p2p is not None and self._p2p._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._p2p._child.kill()

    async def connect(self, peer: str, addresses: Iterable[str]) -> bool:
        """Connect to a peer at one of these addresses. Returns whether it succeeded."""
        try:
            parsed = [Multiaddr(address) for address in addresses]
            await within(CONNECT_S, self._p2p._client.connect(PeerID.from_base58(peer), parsed))
        except Exception:  # noqa: BLE001 - a peer's address can make parsers, daemon and network raise anything
            return False
        return True

    def stub(self, peer: PeerID) -> Any:
        """Return hivemind's stub for requests to a peer's DHT."""
        return ServicerBase.get_stub.__func__(DHTProtocol, self._p2p, peer)
