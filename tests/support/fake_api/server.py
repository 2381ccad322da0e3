"""An OpenAI-compatible server that misbehaves on command, in a thread of the test or in a separate process.

In a thread: ``with api_server(latency=0.1) as server: server.next(Fault.RESET)``.
In a process: ``python -m tests.support.fake_api.server --port 0 --seed 1 --fault-rate 0.2`` prints its URL;
``api_process`` in ``tests.support.fake_api.remote`` starts one and offers the same methods.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aiohttp import web

from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.handlers import build_app
from tests.support.fake_api.ledger import Snapshot
from tests.support.fake_api.state import Options, State

_Result = TypeVar("_Result")


class Service:
    """Serves the application on a port of the running event loop. Closing and reopening keeps the port."""

    def __init__(self, state: State, port: int = 0) -> None:
        self.state = state
        self.port = port
        # A stall ends when the handler of a disconnected client is cancelled.
        self._runner = web.AppRunner(
            build_app(state), handler_cancellation=True, access_log=None, shutdown_timeout=0.05, keepalive_timeout=300
        )
        self._site: web.TCPSite | None = None

    async def open(self) -> None:
        """Listen."""
        if self._runner.server is None:
            await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=4096)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self.state.down = False

    async def refuse(self) -> None:
        """Stop listening; open connections get no more answers."""
        assert self._site is not None
        self.state.down = True
        await self._site.stop()

    async def close(self) -> None:
        """End permanently."""
        await self._runner.cleanup()


class ApiServer:
    """A server in a thread, and a test's commands for it. All run in the server's thread."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._service = service
        self._loop = loop
        self._thread = thread

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self._service.port}"

    @property
    def base_url(self) -> str:
        """The base URL for clients."""
        return f"{self.url}/v1"

    @property
    def ledger(self) -> Snapshot:
        """The current ledger."""
        return self._call(self._service.state.ledger.snapshot)

    def next(self, fault: Fault | Trouble | str, times: int = 1, endpoint: str = "chat", **details: Any) -> None:
        """Make the next requests to an endpoint fail; ``details`` are a ``Trouble``'s."""
        self._call(lambda: self._service.state.next(fault, times, endpoint, **details))

    def always(self, fault: Fault | Trouble | str | None, endpoint: str = "chat", **details: Any) -> None:
        """Make all requests to an endpoint fail, until this is called with None."""
        self._call(lambda: self._service.state.always(fault, endpoint, **details))

    def set(self, **options: Any) -> None:
        """Change ``Options``."""
        self._call(lambda: self._service.state.set(**options))

    def revoke(self, key: str) -> None:
        """Revoke a key."""
        self._call(lambda: self._service.state.revoke(key))

    def finish_batches(self, status: str = "completed", lines: int | None = None) -> None:
        """End all batches; see ``State.finish_batches``."""
        self._call(lambda: self._service.state.finish_batches(status, lines))

    def forget_batches(self) -> None:
        """Forget all batches."""
        self._call(self._service.state.forget_batches)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections for a while."""
        self._wait(self._service.refuse())
        try:
            yield
        finally:
            self._wait(self._service.open())

    def usd(self, price_in: float, price_out: float) -> float:
        """Return the bill so far, from dollars per million tokens."""
        return self.ledger.usd(price_in, price_out)

    def _wait(self, job: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()

    def _call(self, act: Callable[[], _Result]) -> _Result:
        """Run a function in the server's thread; directly, if this is that thread or it has ended."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return act()

        async def job() -> _Result:
            return act()

        return self._wait(job())


@contextmanager
def api_server(port: int = 0, **options: Any) -> Iterator[ApiServer]:
    """Run a server in a thread. ``options`` are those of ``state.Options``; the ledger can be read after the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="api-server", daemon=True)
    service = Service(State(Options(**options)), port)
    server = ApiServer(service, loop, thread)
    thread.start()
    try:
        server._wait(service.open())
        yield server
    finally:
        server._wait(service.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_api.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--options", type=json.loads, default={}, help="any of Options, as a JSON object")
    return parser.parse_args()


async def _serve(port: int, options: dict[str, Any], ready: Callable[[str], object]) -> None:
    service = Service(State(Options(**options)), port)
    await service.open()
    ready(f"http://127.0.0.1:{service.port}")
    await asyncio.Event().wait()


def serve(port: int, options: dict[str, Any], ready: Callable[[str], object]) -> None:
    """Run a server in this process until it is killed, and call ``ready`` with its URL."""
    asyncio.run(_serve(port, options, ready))


def main() -> None:
    arguments = _arguments()
    given = {"seed": arguments.seed, "fault_rate": arguments.fault_rate, "latency": arguments.latency}
    serve(arguments.port, given | arguments.options, lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
