"""A hub that sends endless, slow or compressed responses: only a limited part is read."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from hivemind_exp import http_bodies, hub_client
from hivemind_exp.hub_client import HubClient
from tests.support.loopback import serving

MIB = 2**20


class Hub(ThreadingHTTPServer):
    """Answers ``/STATUS/HOW``."""

    sent = 0


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        _, status, how = self.path.split("/")
        self.send_response(int(status))
        self.send_header("Location", "/200/small")
        if how in ("gzip", "gzip,gzip"):
            self.send_header("Content-Encoding", how)
        self.end_headers()
        squeeze = zlib.compressobj(9, wbits=31)
        try:
            for _ in range(1 if how == "small" else 200):
                if how == "small":
                    part = b"whole"
                elif how == "slow":
                    part = b"a"
                    time.sleep(0.1)
                elif how == "endless":
                    part = b"a" * MIB
                else:
                    part = squeeze.compress(b"a" * MIB) + squeeze.flush(zlib.Z_SYNC_FLUSH)
                self.wfile.write(part)
                self.server.sent += len(part)
        except OSError:
            pass  # the client hung up, as it should

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), _Handler)
    with serving(server):
        yield server


def send(hub: Hub, path: str, *, follow: bool = True) -> tuple[httpx2.Response, int]:
    """Return a response, and the peak memory in bytes."""
    tracemalloc.start()
    try:
        with HubClient(follow_redirects=True, trust_env=False, timeout=None) as client:
            response = client.post(f"http://127.0.0.1:{hub.server_port}{path}", follow_redirects=follow)
        return response, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["endless", "gzip", "gzip,gzip"])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_only_the_beginning_of_an_error_is_read(hub: Hub, status: int, how: str) -> None:
    response, memory = send(hub, f"/{status}/{how}")
    assert response.status_code == status
    assert response.text == ("" if how == "gzip,gzip" else "a" * http_bodies.LARGEST_ERROR)
    assert (memory < 8 * MIB, hub.sent < 32 * MIB) == (True, True)


def test_a_slow_error_is_cut(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "ERROR_S", 0.3)
    response, _ = send(hub, "/500/slow")
    assert response.status_code == 500
    assert 0 < len(response.text) < 20


def test_a_redirect_is_followed_without_reading_it(hub: Hub) -> None:
    response, memory = send(hub, "/302/endless")
    assert response.text == "whole"
    assert memory < 8 * MIB
    assert send(hub, "/302/endless", follow=False)[0].status_code == 302


@pytest.mark.slow
@pytest.mark.parametrize(("how", "words"), [("endless", "too large"), ("gzip", "too large"), ("gzip,gzip", "twice")])
def test_a_success_that_is_too_large_is_an_error(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setattr(hub_client, "_LARGEST_ANSWER", MIB)
    with pytest.raises(OSError, match=words):
        send(hub, f"/200/{how}")


def test_a_file_is_streamed_however_large(hub: Hub) -> None:
    with HubClient(trust_env=False) as client:
        with client.stream("GET", f"http://127.0.0.1:{hub.server_port}/200/endless") as response:
            assert sum(map(len, response.iter_bytes())) == 200 * MIB
