"""A proxy for tests: HTTP CONNECT or SOCKS 5, whichever the client speaks. Every tunnel leads to one local server."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SOCKS = 5


class Tunnels(socketserver.ThreadingTCPServer):
    """Records the hosts that clients ask for, and all bytes that it can read in transit."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.hosts: list[str] = []
        self.seen = bytearray()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.BaseRequestHandler):
    server: Tunnels
    request: socket.socket

    def handle(self) -> None:
        with suppress(OSError, ConnectionError):
            first = self._read(1)
            self.server.hosts.append(self._socks() if first[0] == _SOCKS else self._http(first))
            with socket.create_connection(("127.0.0.1", self.server.target)) as target:
                threading.Thread(target=self._copy, args=(target, self.request, None), daemon=True).start()
                self._copy(self.request, target, self.server.seen)

    def _socks(self) -> str:
        self._read(self._read(1)[0])
        self.request.sendall(b"\x05\x00")
        head = self._read(5)  # version, command, reserved, kind of address (3: a name), length
        assert head[3] == 3
        name = self._read(head[4]).decode()
        self._read(2)
        self.request.sendall(b"\x05\x00\x00\x01" + bytes(6))
        return name

    def _http(self, first: bytes) -> str:
        head = first
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        self.server.seen += head
        method, target, _ = head.split(b" ", 2)
        if method == b"CONNECT":
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return target.decode().partition(":")[0]

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = self.request.recv(count - len(found))
            if not part:
                raise ConnectionError
            found += part
        return found

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, seen: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if seen is not None:
                    seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def tunnels(target: int) -> Iterator[Tunnels]:
    """Run a proxy whose tunnels all lead to port ``target`` on this machine."""
    with Tunnels(target) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
