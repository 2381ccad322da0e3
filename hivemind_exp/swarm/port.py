"""A node's port: its own for life, and nobody else's while it runs."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from hivemind_exp.errors import SwarmError


class Port:
    """A port that is held for the daemon, which would start on another daemon's without a word."""

    def __init__(self, number: int, holder: socket.socket) -> None:
        self.number = number
        self._holder = holder

    def close(self) -> None:
        self._holder.close()


def take(wanted: int, path: Path, *, loopback: bool) -> Port:
    """Return a port that is free and held.

    Args:
        wanted: this one, or 0 for the one in ``path``; if that is taken by now, another, which is written there.

    Raises:
        SwarmError: ``wanted`` is in use.
    """
    host = "127.0.0.1" if loopback else "0.0.0.0"
    if wanted:
        try:
            return _hold(host, wanted)
        except OSError as error:
            raise SwarmError(
                f"port {wanted} cannot be used: {error.strerror}",
                next="swarmctl run --set swarm.port=0",
            ) from error
    with contextlib.suppress(OSError, ValueError, OverflowError):
        return _hold(host, int(path.read_text(encoding="ascii")))
    port = _hold(host, 0)
    with contextlib.suppress(OSError):
        path.write_text(f"{port.number}\n", encoding="ascii")
    return port


def _hold(host: str, number: int) -> Port:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of an earlier life may linger; a daemon that listens there, or a holder like this, is noticed.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, number))
        # Closed to other holders from here on, and shared with the daemon, which asks for it in this way.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        holder.close()
        raise
    return Port(holder.getsockname()[1], holder)
