"""The trainer's side of the offload engine, which runs in a separate process and is restarted if it dies."""

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError
from hivemind_exp.events import EVENTS, Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.answers import unfilled
from hivemind_exp.offload.engine import PARTING_S
from hivemind_exp.offload.judge import api_configs, endpoints_of
from hivemind_exp.offload.process.server import pack_orders, unpack_error
from hivemind_exp.offload.settings import OFFLOAD
from hivemind_exp.processes import messages as wire
from hivemind_exp.processes.ending import how_ended
from hivemind_exp.rollouts.types import CompletionRequest, by_group
from hivemind_exp.secrets import Secrets, without_secrets
from hivemind_exp.stop import StopFlag

LIVES = 3
"""The run ends when this many processes in a row die without finishing a round."""
_LEAVE_S = PARTING_S + 2.5
"""Seconds the process has to exit: less than the node itself has, so that the node can still kill it."""
_CHUNK = 2**16
_POLL_S = 0.05
_END_S = 1.0
"""Seconds a process has to exit after its pipe has closed."""
Check = Callable[[], None]
"""Called several times per second while waiting; raises an exception to end the wait."""


def spawn(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process with its two pipes."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "hivemind_exp.offload.process.server", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )


class EngineGone(Exception):
    """The process exited on its own; the text says how."""


class EngineProcess:
    """One engine process, from start to exit, with a pipe each way and a reader thread. Use it from one thread."""

    def __init__(self, first: dict[str, Any], emit: Emit) -> None:
        """Start the process and send ``first``. ``emit`` gets the engine's events, in order, from another thread."""
        self._emit = emit
        self._number = 0
        self._outgoing = bytearray(wire.encode(first))
        self._ended = False
        self._answers: SimpleQueue[list[Any] | Exception | None] = SimpleQueue()
        # Without API keys, and without variables that would point the SDK at another address.
        kept = {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("OPENAI_")}
        self._process = spawn(kept | wire.search_path())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        self.pid = self._process.pid
        os.set_blocking(self._input, False)
        self._reader = threading.Thread(target=self._read, name="engine", daemon=True)
        self._reader.start()

    def ready(self, check: Check) -> None:
        """Wait until the engine runs. Raises its startup error, or ``EngineGone``."""
        self._flush(check)
        self._await(0, check)

    def post(self, name: str, argument: object, check: Check) -> int:
        """Send a call and return its number. Raises ``EngineGone``."""
        self._number += 1
        self._outgoing += wire.encode([self._number, name, argument])
        self._flush(check)
        return self._number

    def call(self, name: str, argument: object, check: Check) -> None:
        """Send a call and wait until it is done. Raises the error that the call raised, or ``EngineGone``."""
        self._await(self.post(name, argument, check), check)

    def close(self, seconds: float) -> None:
        """Ask the engine to exit, and wait; kill it after ``seconds``. On return its last events have been emitted."""
        late = threading.Timer(seconds, self._process.kill)
        late.daemon = True
        late.start()
        with contextlib.suppress(EngineGone):
            self.post("close", None, lambda: None)
        self.end()
        late.cancel()

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> str:
        """Wait until the pipe closes and the process exits; return how it exited."""
        self._reader.join()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()  # it may have closed its pipe without exiting
        status = self._process.wait()
        self._ended = True
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return how_ended(status)

    def _flush(self, check: Check) -> None:
        """Write all pending bytes. If ``check`` interrupts, the rest is written before the next message."""
        while self._outgoing and not self._ended:
            try:
                del self._outgoing[: os.write(self._input, self._outgoing[:_CHUNK])]
            except BlockingIOError:
                check()
                select.select([], [self._input], [], _POLL_S)
            except BrokenPipeError:
                break
        if self._outgoing:
            raise EngineGone(self.end())

    def _await(self, number: int, check: Check) -> None:
        while True:
            check()
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except Empty:
                continue
            if answer is None:
                raise EngineGone(self.end())
            if isinstance(answer, Exception):
                raise answer
            kind, answered, *error = answer
            if kind == "failed":
                raise unpack_error(*error)
            if answered == number:
                return

    def _read(self) -> None:
        with contextlib.suppress(OSError, wire.WireError):
            for message in wire.messages(self._output):
                if message[0] != "event":
                    self._answers.put(message)
                    continue
                _, event, fields = message
                try:
                    self._emit(EVENTS[event](**fields))
                except Exception as error:  # noqa: BLE001 - such as a full disk; raised by the next wait
                    self._answers.put(error)
        self._answers.put(None)


@dataclass(eq=False)
class OffloadClient:
    """The API side of a node, with the same interface as ``ApiEngine``, which documents the methods.

    If the process dies, it is replaced. Completions in the journal are not requested again, and requests that were in
    flight count as spent, as after any crash.
    """

    _config: Config
    _files: NodeFiles
    _secrets: Secrets
    """Only the keys of the providers that generate or grade are sent to the process."""
    _emit: Emit
    _stop: StopFlag
    _process: EngineProcess | None = None
    _orders: dict[tuple[int, str, str], CompletionRequest] = field(default_factory=dict)
    _deaths: int = 0
    _aside: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Providers that are no longer used. A new process needs this list."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process. Raises ``StopRequested``, or ``NodeError`` for settings that cannot work."""
        try:
            while True:
                try:
                    self._open(again=False)
                    return
                except EngineGone as gone:
                    self._count_death(gone)
        except BaseException:
            self._kill()
            raise

    def wait_for_probe(self) -> None:
        self._call("probed", None)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        new = {key: order for key, order in by_group(orders).items() if key not in self._orders}
        if not new:
            return
        self._orders |= new
        try:
            self._running.post("place", pack_orders(new.values()), self._stop.check)
        except EngineGone as gone:
            self._revive(gone)

    def wait(self, round_: int, deadline: float | None = None) -> None:
        self._call("wait", (round_, deadline))
        self._orders = {key: order for key, order in self._orders.items() if order.round != round_}
        self._deaths = 0

    def report_spend(self, round_: int) -> None:
        self._call("tell", round_)

    def set_aside(self, provider: str, why: str, command: str, table: str = OFFLOAD) -> None:
        self._aside.append((provider, why, command, table))
        self._call("set_aside", self._aside[-1])

    def close(self) -> None:
        """Wait briefly for answers in flight, then stop the process. It reports any spending not yet reported."""
        if self._process is not None:
            self._process.close(_LEAVE_S)
            self._process = None

    @property
    def _running(self) -> EngineProcess:
        assert self._process is not None
        return self._process

    def _call(self, name: str, argument: object) -> None:
        while True:
            try:
                self._running.call(name, argument, self._stop.check)
                return
            except EngineGone as gone:
                self._revive(gone)

    def _open(self, *, again: bool) -> None:
        names = {endpoint.name for endpoint in endpoints_of(self._config)}
        first = {
            "config": self._config.model_dump(mode="json"),
            "node_dir": str(self._files.root),
            "secrets": {name: key for name in names if (key := self._secrets.get(name)) is not None},
            "again": again,
        }
        self._process = EngineProcess(first, self._emit)
        self._process.ready(self._stop.check)

    def _revive(self, gone: EngineGone) -> None:
        """Start a new process and resubmit the unfilled orders. Raises ``NodeError`` after too many deaths."""
        while True:
            self._count_death(gone)
            try:
                self._open(again=True)
                for each in self._aside:
                    self._running.post("set_aside", each, self._stop.check)
                self._running.post("place", pack_orders(self._unfilled()), self._stop.check)
                return
            except EngineGone as again:
                gone = again

    def _count_death(self, gone: EngineGone) -> None:
        """Report a death. Raises ``NodeError`` after too many."""
        self._deaths += 1
        if self._deaths == LIVES:
            raise self._lost(gone) from gone
        message = f"the API process {gone}; restarting it. Requests that were in flight count as spent"
        self._emit(WarningEvent(code="engine_restarted", message=message))

    def _unfilled(self) -> list[CompletionRequest]:
        with contextlib.closing(
            Journal(self._files.journal, node_charter(self._config, self._files), durable=False)
        ) as journal:
            left = [(order, tuple(unfilled(journal, order))) for order in self._orders.values()]
        return [replace(order, indices=places, done=Future()) for order, places in left if places]

    def _lost(self, gone: EngineGone) -> NodeError:
        self._kill()
        times = f" ({self._deaths} times without finishing a round)" if self._deaths > 1 else ""
        return NodeError(
            f"the API process {gone}{times}; the node's log may show why",
            next=f"swarmctl logs --node {self._config.node.name} --raw",
        )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def open_offload(
    config: Config, files: NodeFiles, secrets: Secrets, emit: Emit, stop: StopFlag
) -> OffloadClient | None:
    """Start the API side in a separate process; return None if the node asks no API.

    Raises ``NodeError`` for settings that cannot work, a missing key or an unknown price.
    """
    if not api_configs(config):
        return None
    offload = OffloadClient(config, files, secrets, emit, stop)
    offload.start()
    return offload
