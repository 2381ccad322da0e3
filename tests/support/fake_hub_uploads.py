"""A stand-in for the hub's upload API: repositories, preupload, LFS, commits, listings.

It checks every hash and keeps what it receives. Large files go to a second server, as on the hub. With Xet they go to a
directory: the real client supports local storage, so only Xet's own server is not tested.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.loopback import serving

TOKEN = "hf_Writes0123456789abcdefgh"


@dataclass
class Account:
    """The hub's state."""

    token: str = TOKEN
    role: str = "write"
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files, by SHA-256."""
    refuse: dict[str, int] = field(default_factory=dict)
    """By word: the status of requests whose path contains it."""
    shown: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    """(server, Authorization, everything sent) of every request."""
    storage: str = ""
    echo: bool = False
    """Refuse every POST with an error that repeats the token."""
    xet: Path | None = None
    """Xet's storage directory; None: LFS is used."""
    wait: threading.Event | None = None
    """If given, commits wait for this event."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, account: Account, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.account = account

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    name = ""

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization")
        others = [f"{key}: {value}" for key, value in self.headers.items() if key.lower() != "authorization"]
        sent = "\n".join([self.path, *others]).encode() + body
        self.server.account.shown.append((self.name, authorization, sent))
        return body

    def answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class _Storage(_Handler):
    """The storage server for large files. It has no token."""

    name = "storage"

    def do_PUT(self) -> None:
        body, oid = self.read(), self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(400)
            return
        self.server.account.stored[oid] = body
        self.answer(200)


class _Api(_Handler):
    name = "hub"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.read()
        account = self.server.account
        if self._refused():
            return
        if self.path == "/api/whoami-v2":
            self.answer(200, {"name": "me", "auth": {"accessToken": {"role": account.role}}})
            return
        if "/xet-write-token/" in self.path:
            self.answer(200, {"casUrl": f"local://{account.xet}", "accessToken": "xet", "exp": int(time.time()) + 3600})
            return
        repo = self.path.removeprefix("/api/models/").split("/revision/")[0].split("?")[0]
        if repo in account.repos:
            names = [{"rfilename": name} for name in account.repos[repo]]
            self.answer(200, {"id": repo, "sha": f"{len(account.commits):040x}", "siblings": names, "tags": []})
        else:
            self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.read()
        if self._refused():
            return
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
            self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/commit/" in self.path:
            self._commit(body)
        else:
            self.answer(404)

    def _refused(self) -> bool:
        account = self.server.account
        status = next((status for word, status in account.refuse.items() if word in self.path), None)
        if self.headers.get("Authorization") != f"Bearer {account.token}":
            status = 401
        elif self.command == "POST" and account.role == "read":
            status = 403
        if account.echo and self.command == "POST":
            self.answer(400, {"error": f"no {self.headers.get('Authorization')} here"})
            return True
        if status is not None:
            self.answer(status, {"error": "refused"})
        return status is not None

    def _create(self, wanted: dict[str, Any]) -> None:
        account = self.server.account
        repo = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.server.url}/{repo}"
        if repo in account.repos:
            self.answer(409, {"error": "exists", "url": url})
            return
        account.repos[repo] = {}
        account.private[repo] = wanted.get("visibility") == "private"
        self.answer(200, {"url": url, "name": repo, "id": repo})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        repo = self.path.removeprefix("/api/models/").partition("/preupload/")[0]
        files = self.server.account.repos[repo]
        self.answer(
            200,
            {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(each["path"], files),
                    }
                    for each in wanted["files"]
                ]
            },
        )

    def _batch(self, wanted: dict[str, Any]) -> None:
        account = self.server.account
        objects = []
        for each in wanted["objects"]:
            known = each["oid"] in account.stored
            upload = {"href": f"{account.storage}/{each['oid']}", "header": {}}
            objects.append({**each} if known else {**each, "actions": {"upload": upload}})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes) -> None:
        account = self.server.account
        if account.wait is not None:
            account.wait.wait(60)
        repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    account.commits.append(value["summary"])
                case "file":
                    account.repos[repo][value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    stored = (
                        account.stored.get(value["oid"]) if account.xet is None else b"xet:" + value["oid"].encode()
                    )
                    assert stored is not None
                    account.repos[repo][value["path"]] = stored
        oid = f"{len(account.commits):040x}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})


def _oid(path: str, files: dict[str, bytes]) -> str | None:
    """Return the git object id of a file; None if it does not exist."""
    if path not in files:
        return None
    content = files[path]
    if path.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def uploads(account: Account) -> Iterator[str]:
    """Run the hub and the storage server on loopback; yield the hub's address."""
    api, storage = _Server(account, _Api), _Server(account, _Storage)
    account.storage = storage.url
    with serving(api), serving(storage):
        yield api.url
