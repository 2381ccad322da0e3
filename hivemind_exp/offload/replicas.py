"""Replicas of a server of this node's weights: pushes reach all of them or none, and each prompt is asked of one.

Requests run in a thread with an event loop, while the trainer trains.
"""

import asyncio
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.api.policy_server import AdapterMissing, PolicyServer, PushFailed, SampledAnswer, Sampling

_T = TypeVar("_T")
PAUSES_S: tuple[float, ...] = (0.25, 1.0, 2.0)
"""Seconds before each further try of a request that failed."""

_CLOSE_S, _TURN_S = 10.0, 4.0
"""Seconds that the end may take, and that it waits for servers that fall asleep or wake up."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The weights of one push."""

    serial: int
    """Counts the pushes of this run. Weights that were restored have the same version as others before."""
    version: int
    """The optimizer steps behind the weights."""
    name: str
    """The name of the adapter, or of the version of all weights, on the servers. No other weights ever had it."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A request for completions of one prompt."""

    key: str
    """What stays the same for a prompt, so that all its requests go to one replica, which has it in its cache."""
    prompt: tuple[int, ...]
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """An answer, with the weights and the replica that it came from."""

    answer: SampledAnswer
    pushed: Pushed
    replica: int


@dataclass
class Replicas:
    """The replicas. Call it from one thread; it answers with futures."""

    make_servers: Callable[[], Sequence[PolicyServer]]
    """Called in the event loop."""
    sampling: Sampling
    folder: Path
    """Where weights are written."""
    folder_there: str
    """The path of ``folder`` on the servers."""
    kept: int
    """How many pushes the servers keep, at most, besides one that is being loaded."""
    at_a_time: int
    """Most requests in flight."""
    urls: Sequence[str]
    """The servers' addresses, for people."""
    replaces: bool = False
    """Whether a push replaces all weights, so that what was asked for before has to be completed first."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _servers: Sequence[PolicyServer] = ()
    _on_servers: list[Pushed] = field(default_factory=list)
    """The oldest first. The last one answers new requests."""
    _in_flight: Counter[int] = field(default_factory=Counter)
    """Requests by serial."""
    _push: asyncio.Task[None] | None = None
    """The last one to begin."""
    _asked: set[asyncio.Task[ReplicaAnswer]] = field(default_factory=set)
    """Requests without an answer, also those that wait for a push."""
    _turning: set[asyncio.Future[None]] = field(default_factory=set)
    """Servers that are falling asleep or waking up."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.at_a_time)
        self._thread = threading.Thread(target=self._loop.run_forever, name="served policy", daemon=True)

    def start(self, prefix: str) -> list[str]:
        """Connect, and unload adapters whose names begin with ``prefix``: an earlier run left them. Return their names.

        Raises ``RequestFailed`` if a replica does not answer, and ``NodeError`` if a proxy cannot be used.
        """
        self._thread.start()
        return self._submit(self._begin(prefix)).result()

    def push(self, pushed: Pushed, write: Callable[[Path], None]) -> Future[None]:
        """Load new weights everywhere. ``write`` writes them to a directory; it is called in a thread.

        The future raises ``PushFailed`` or ``RequestFailed``. Then no replica has the weights, and the ones before them
        answer. A replica whose whole weights were replaced already gets the ones before them with its next request.
        """

        async def push() -> None:
            before = self._push
            self._push = asyncio.ensure_future(self._load(before, pushed, write, frozenset(self._asked)))
            await self._push

        return self._submit(push())

    def ask(self, request: PromptRequest) -> "Future[ReplicaAnswer]":
        """Ask for completions by the weights of the last push, once it is complete.

        The future raises ``RequestFailed``, after several tries, or ``PushFailed`` if there are no weights.
        """

        async def ask() -> ReplicaAnswer:
            task = asyncio.ensure_future(self._ask(request, self._push))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            return await task

        return self._submit(ask())

    def sleep(self) -> Future[None]:
        """Have all replicas give their memory back. The future raises ``RequestFailed``, after all have answered."""
        return self._submit(self._everywhere(lambda server: server.sleep()))

    def wake(self) -> Future[None]:
        """Have all replicas take their memory again. The future raises ``RequestFailed``, after all have answered."""
        return self._submit(self._everywhere(lambda server: server.wake()))

    def close(self) -> None:
        """Unload every adapter, delete the files, and end the thread."""
        if not self._thread.is_alive():
            return
        with suppress(Exception):
            self._submit(self._end()).result(timeout=_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _begin(self, prefix: str) -> list[str]:
        self._servers = self.make_servers()
        found: set[str] = set()
        for server in self._servers:
            left = [name for name in await server.adapters() if name.startswith(prefix)]
            for name in left:
                await server.unload(name)
            found.update(left)
        return sorted(found)

    async def _everywhere(self, call: Callable[[PolicyServer], Coroutine[Any, Any, None]]) -> None:
        tasks = [asyncio.ensure_future(call(server)) for server in self._servers]
        for task in tasks:
            self._turning.add(task)
            task.add_done_callback(self._turning.discard)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = next((each for each in results if isinstance(each, BaseException)), None)
        if failed is not None:
            raise failed

    async def _end(self) -> None:
        if self._turning:  # one that is cut short would not know whether its server sleeps
            await asyncio.wait(self._turning, timeout=_TURN_S)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pushed in self._on_servers:
            await self._unload(pushed)
        for server in self._servers:
            await server.close()

    async def _load(
        self,
        before: asyncio.Task[None] | None,
        pushed: Pushed,
        write: Callable[[Path], None],
        asked: frozenset[asyncio.Task[ReplicaAnswer]],
    ) -> None:
        """Load new weights everywhere. ``asked``: the requests that were made before."""
        if before is not None:
            await asyncio.wait([before])
        # A server must never see weights of which only a part is written.
        partial = self.folder / f".partial-{pushed.name}"
        await asyncio.to_thread(write, partial)
        os.replace(partial, self.folder / pushed.name)
        if self.replaces and asked:
            await asyncio.wait(asked)
        loads = (server.load(pushed.name, self._path(pushed)) for server in self._servers)
        results = await asyncio.gather(*loads, return_exceptions=True)
        failed = next((each for each in results if isinstance(each, BaseException)), None)
        if failed is not None:
            await self._unload(pushed)
            raise failed
        self._on_servers.append(pushed)
        idle = [each for each in self._on_servers[:-1] if not self._in_flight[each.serial]]
        for old in idle[: max(0, len(self._on_servers) - self.kept)]:
            self._on_servers.remove(old)
            await self._unload(old)

    def _path(self, pushed: Pushed) -> str:
        return f"{self.folder_there.rstrip('/')}/{pushed.name}"

    async def _unload(self, pushed: Pushed) -> None:
        await asyncio.gather(*(server.unload(pushed.name) for server in self._servers), return_exceptions=True)
        shutil.rmtree(self.folder / pushed.name, ignore_errors=True)

    async def _ask(self, request: PromptRequest, push: asyncio.Task[None] | None) -> ReplicaAnswer:
        """Ask once ``push`` is complete: the last one to begin before the request."""
        if push is not None and not push.done():
            await asyncio.wait([push])
        if not self._on_servers:
            raise PushFailed("has none of this node's weights")
        pushed = self._on_servers[-1]
        replica = int(request.key, 16) % len(self._servers)
        self._in_flight[pushed.serial] += 1
        try:
            async with self._slots:
                return ReplicaAnswer(await self._answer(self._servers[replica], request, pushed), pushed, replica)
        finally:
            self._in_flight[pushed.serial] -= 1

    async def _answer(self, server: PolicyServer, request: PromptRequest, pushed: Pushed) -> SampledAnswer:
        for pause in (*PAUSES_S, None):
            try:
                return await server.complete(pushed.name, request.prompt, request.count, self.sampling, request.seed)
            except AdapterMissing as error:  # the server was restarted
                with suppress(PushFailed):  # another request may have loaded it by now
                    await server.load(pushed.name, self._path(pushed))
                if pause is None:
                    raise RequestFailed(FaultKind.BROKEN, f"{server.url} loses this node's weights") from error
            except RequestFailed as fault:
                if pause is None or fault.trouble in (FaultKind.BAD_REQUEST, FaultKind.REFUSED, FaultKind.TIMEOUT):
                    raise
            await asyncio.sleep(pause or 0)
        raise AssertionError("unreachable")
