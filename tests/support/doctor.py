"""Helpers for the tests of ``doctor``: a context built as the command builds it, and misbehaving servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from swarmctl.doctor.check import Context
from swarmctl.doctor.command import make_context
from swarmctl.settings.options import DoctorOptions
from tests.support.loopback import serving

DEAD = "http://127.0.0.1:9"
"""No process listens on this port (the discard service)."""
QWEN = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""The configuration of Qwen2.5-0.5B."""


def make(profile: str = "demo", *assignments: str, **changes: Any) -> Context:
    """Return the context of ``doctor --profile PROFILE --set …``. ``environment`` extends the current environment."""
    environment = os.environ | {"HF_ENDPOINT": DEAD} | changes.pop("environment", {})
    context = make_context(DoctorOptions(profile=profile, assignments=assignments))
    return replace(context, environment=environment, **changes)


def age(path: Path) -> Path:
    """Make a file look as if it had not changed for an hour."""
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago), follow_symlinks=False)
    return path


@contextmanager
def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve HTTP on loopback with one function for all requests, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield address


def reply(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a handler that sends the same response to every request. ``Date`` replaces the server's date."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(status)
        for name, value in ({"Date": formatdate(usegmt=True)} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
