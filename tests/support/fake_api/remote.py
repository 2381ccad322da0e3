"""A server in a separate process: it shares no lock with its client, and survives a client that is killed."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.ledger import Snapshot
from tests.support.fake_api.server import serve
from tests.support.restarts import processes


class RemoteServer:
    """The commands of ``ApiServer``, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def base_url(self) -> str:
        """The base URL for clients."""
        return f"{self.url}/v1"

    @property
    def ledger(self) -> Snapshot:
        """The current ledger."""
        with urllib.request.urlopen(f"{self.url}/ledger") as answer:
            return Snapshot.from_json(json.load(answer))

    def next(self, fault: Fault | Trouble | str, times: int = 1, endpoint: str = "chat", **details: Any) -> None:
        """Make the next requests to an endpoint fail."""
        self._control("next", fault=_plain(fault), times=times, endpoint=endpoint, **details)

    def always(self, fault: Fault | Trouble | str | None, endpoint: str = "chat", **details: Any) -> None:
        """Make all requests to an endpoint fail, until this is called with None."""
        self._control("always", fault=_plain(fault), endpoint=endpoint, **details)

    def set(self, **options: Any) -> None:
        """Change ``Options``; functions as ``"module:name"``."""
        self._control("set", **options)

    def revoke(self, key: str) -> None:
        """Revoke a key."""
        self._control("revoke", key=key)

    def finish_batches(self, status: str = "completed", lines: int | None = None) -> None:
        """End all batches; see ``State.finish_batches``."""
        self._control("finish_batches", status=status, lines=lines)

    def settled(self) -> Snapshot:
        """Return the ledger once the server has noticed that its client is dead."""
        while (books := self.ledger).outcomes()["pending"]:
            time.sleep(0.01)
        return books

    def usd(self, price_in: float, price_out: float) -> float:
        """Return the bill so far, from dollars per million tokens."""
        return self.ledger.usd(price_in, price_out)

    def _control(self, command: str, **arguments: Any) -> None:
        data = json.dumps({command: arguments}).encode()
        request = urllib.request.Request(f"{self.url}/control", data, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()


def _plain(fault: Fault | Trouble | str | None) -> Any:
    return asdict(fault) if isinstance(fault, Trouble) else fault


@contextmanager
def api_process(port: int = 0, **options: Any) -> Iterator[RemoteServer]:
    """Run a server in a separate process. ``options``: those of ``state.Options``, functions as ``"module:name"``."""
    context = processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(port, options, sender.send))
    process.start()
    sender.close()
    try:
        yield RemoteServer(receiver.recv())
    finally:
        process.kill()
        process.join()
