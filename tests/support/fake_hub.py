"""A stand-in for the Hugging Face hub on loopback: it serves files of directories, and refuses gated models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from tests.support.loopback import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """``/OWNER/NAME/resolve/REVISION/FILE``, as the hub's clients ask for it."""

    models: ClassVar[dict[str, Path]] = {}
    gated: ClassVar[frozenset[str]] = frozenset()
    tokens_seen: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.tokens_seen.append(self.headers.get("Authorization"))
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo.startswith("api/models/"):
            # A listing of subfolders, which these models do not have.
            self._refuse(404, "EntryNotFound")
        elif repo in self.gated:
            self._refuse(403, "GatedRepo")
        elif repo not in self.models:
            # The hub's answer without access, so that a private name looks the same as one that does not exist.
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif not (path := self.models[repo] / name).is_file():
            self._refuse(404, "EntryNotFound")
        else:
            body = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_hub(models: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve ``models`` (id → directory) and yield the address."""
    handler = type("Served", (Handler,), {"models": models, "gated": frozenset(gated), "tokens_seen": []})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        yield address
