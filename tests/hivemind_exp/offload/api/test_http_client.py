"""Endless responses, and those that decompress to far more than was sent: only a limited part is read."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from hivemind_exp.offload.api import chat
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient, SamplingParams
from hivemind_exp.offload.api.faults import RequestFailed
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS
from tests.support.loopback import serving

MIB = 2**20
LIMIT = 2 * MIB
"""Largest answer in these tests, in bytes."""
OFFERED = 192 * MIB
"""Bytes that the server sends until the client stops it, after decompression."""


class Endless(ThreadingHTTPServer):
    """Answers every request with ``status`` and a body that is far too long, compressed as ``coding``."""

    status = 200
    coding = "identity"
    chunked = True
    codings = ""
    """The header, if it is not that of ``coding``."""
    sent = 0

    def parts(self) -> Iterator[bytes]:
        plain = b'{"error": "' + b"a" * (MIB - 11)
        pack: Callable[[bytes], bytes] = bytes
        if self.coding != "identity":
            window = {"gzip": 31, "deflate": 15, "raw": -15}[self.coding]
            squeeze = zlib.compressobj(9, wbits=window)
            pack = lambda data: squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)  # noqa: E731
        for number in range(OFFERED // MIB):
            yield pack(plain if number == 0 else b"a" * MIB)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endless

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        self.send_response(server.status)
        self.send_header("Content-Type", "application/json")
        if server.status < 400:
            self.send_header("Location", "/elsewhere")
        if server.coding != "identity":
            known = "deflate" if server.coding == "raw" else server.coding
            self.send_header("Content-Encoding", server.codings or known)
        self.send_header(*(("Transfer-Encoding", "chunked") if server.chunked else ("Connection", "close")))
        self.end_headers()
        self.close_connection = True
        try:
            for part in server.parts():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if server.chunked else part)
                server.sent += len(part)
        except OSError:
            pass  # the client hung up, as it should

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Endless]:
    server = Endless(("127.0.0.1", 0), _Handler)
    with serving(server):
        yield server


def failure(server: Endless, do: Callable[[ChatClient], Any]) -> tuple[RequestFailed, int]:
    """Return why a request failed, and its peak memory in bytes."""

    async def fail() -> RequestFailed:
        row = PROVIDERS["vllm"].chat
        assert row is not None
        url = f"http://127.0.0.1:{server.server_port}/v1"
        client = ChatClient(Endpoint("box", url, "m", row, needs_key=False), None, seconds=60)
        try:
            with pytest.raises(RequestFailed) as raised:
                await do(client)
        finally:
            await client.close()
        return raised.value

    tracemalloc.start()
    try:
        return asyncio.run(fail()), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ask(client: ChatClient) -> Any:
    return client.ask(({"role": "user", "content": "hi"},), 1, SamplingParams(1.0, 8, 0, None), 0)


def look(client: ChatClient) -> Any:
    return BatchClient(client, 60).create("file", "tag")


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "raw"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 503])
@pytest.mark.parametrize("do", [ask, look])
def test_only_a_limited_part_of_a_response_is_read(
    server: Endless, monkeypatch: pytest.MonkeyPatch, status: int, coding: str, do: Callable[[ChatClient], Any]
) -> None:
    monkeypatch.setattr(chat, "LARGEST_ANSWER", LIMIT)
    monkeypatch.setattr("hivemind_exp.offload.api.batch.LARGEST_ANSWER", LIMIT)
    server.status, server.coding = status, coding
    failed, memory = failure(server, do)
    assert memory < 16 * LIMIT
    assert server.sent < OFFERED // 2
    if status == 200:
        assert failed.detail in ("the response is larger than 2 MiB", "the response is not a JSON object")
    else:
        assert failed.detail.startswith(f"HTTP {status}: ")
        assert ("aaaa" in failed.detail) == (status != 302)


def test_the_status_is_kept_if_the_connection_closes_during_the_body(server: Endless) -> None:
    server.status, server.chunked = 429, False
    failed, memory = failure(server, ask)
    assert failed.detail.startswith("HTTP 429: ")
    assert (memory < 16 * MIB, server.sent < OFFERED // 2) == (True, True)


def test_the_status_is_kept_if_the_body_cannot_be_decompressed(
    server: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endless, "parts", lambda _: iter([b"not gzip"]))
    server.status, server.coding = 429, "gzip"
    failed, _ = failure(server, ask)
    assert failed.detail == "HTTP 429: no reason given"


@pytest.fixture
def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the parts that are read of bodies, as they were sent."""
    sizes: list[int] = []
    read = httpx2.Response.aiter_raw

    async def counted(response: httpx2.Response, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async for part in read(response, chunk_size):
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(httpx2.Response, "aiter_raw", counted)
    return sizes


@pytest.mark.parametrize("status", [200, 302, 429])
def test_a_body_that_is_compressed_twice_is_not_read(
    server: Endless, parts_read: list[int], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A few kilobytes can decompress to gigabytes that decompress to nothing, which no limit on the result stops."""
    monkeypatch.setattr(chat, "LARGEST_ANSWER", LIMIT)
    server.status, server.coding, server.codings = status, "gzip", "gzip, gzip"
    failed, _ = failure(server, ask)
    assert parts_read == []
    assert ("0 bytes" in failed.detail) == (status == 200)
    server.codings = "gzip, identity"  # compressed once
    failed, _ = failure(server, ask)
    assert sum(parts_read) > 0
    assert "0 bytes" not in failed.detail
