"""A real HTTP server that stands in for an API and can answer a key test in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.loopback import serving

GOOD = "sk-good-0123456789abcdef"


class Service(ThreadingHTTPServer):
    """Answers as ``act`` says and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.act = "models"
        self.elsewhere = ""
        self.asked: list[tuple[str, str | None]] = []
        """(path, Authorization) of each request."""
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:  # noqa: PLR0912 - one branch for each way to answer
        service = self.server
        service.asked.append((self.path, self.headers.get("Authorization")))
        error = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
        match service.act:
            case "models" if self.headers.get("Authorization") != f"Bearer {GOOD}":
                self._answer(401, {"error": {"message": f"Incorrect API key: {self.headers.get('Authorization')}"}})
            case "models":
                self._answer(200, {"object": "list", "data": [{"id": f"model-{n}"} for n in range(12)]})
            case "list":
                self._answer(200, [{"id": "one"}])
            case "402" | "429":
                self._answer(int(service.act), error)
            case "400":
                self._answer(400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}])
            case "slow down":
                self._answer(429, {"error": {"message": "rate limit"}})
            case "500" | "404":
                self._answer(int(service.act), {"error": f"echo {self.headers.get('Authorization')}"})
            case "here" if self.path != "/moved":
                self._answer(307, {}, Location="/moved")
            case "here":
                self._answer(200, {"data": []})
            case "elsewhere":
                self._answer(302, {}, Location=service.elsewhere)
            case "garbage":
                self.wfile.write(b"\x00\x01 no HTTP at all\r\n\r\n")
            case "page":
                self._answer(200, "<html>")
            case "hang":
                service.closing.wait()
            case "drip":
                self._drip()
            case json_text:
                self._answer(200, json.loads(json_text))

    do_POST = do_GET

    def _answer(self, status: int, body: Any, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.wait(0.1):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def service() -> Iterator[Service]:
    """Run a service on loopback."""
    server = Service()
    with serving(server):
        try:
            yield server
        finally:
            server.closing.set()
