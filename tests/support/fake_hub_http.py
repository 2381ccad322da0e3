"""A stand-in for the Hugging Face hub: it serves one model to clients with the right token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.loopback import serving

MODEL = "lab/private-model"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of a directory as those of ``MODEL``."""

    def __init__(self, directory: Path, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory, self.token = directory, token
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        prefix = f"/{MODEL}/resolve/"
        name = self.path.removeprefix(prefix).partition("/")[2].partition("?")[0]
        file = self.server.directory / name
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._head(401, 0, {"X-Error-Code": "RepoNotFound"})
        elif not self.path.startswith(prefix) or not file.is_file():
            self._head(404, 0, {"X-Error-Code": "EntryNotFound"})
        else:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._head(200, len(content), {"ETag": etag, "X-Repo-Commit": _COMMIT})
            if with_body:
                self.wfile.write(content)
                self.server.served.append(name)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def hub(directory: Path, token: str) -> Iterator[Hub]:
    """Run a hub on loopback."""
    server = Hub(directory, token)
    with serving(server):
        yield server
