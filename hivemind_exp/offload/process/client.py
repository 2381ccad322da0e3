"""The engine as the trainer uses it: in a process of its own, started again where it dies."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import NodeError
from hivemind_exp.events import EVENTS, Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.answers import unfilled
from hivemind_exp.offload.engine import PARTING_S
from hivemind_exp.offload.process.server import pack_orders, unpack_error
from hivemind_exp.offload.settings import chain, is_offloaded
from hivemind_exp.processes import messages as wire
from hivemind_exp.rollouts.types import CompletionRequest, by_group
from hivemind_exp.secrets import Secrets, without_secrets
from hivemind_exp.stop import StopFlag

LIVES = 3
"""Processes in a row that may die before a round is done."""
_LEAVE_S = PARTING_S + 2.5
"""What the process gets to end: less than the node itself gets, so that the node can end it."""
_CHUNK = 2**16
_POLL_S = 0.05
_END_S = 1.0
"""What a process gets to end after its pipe did."""
Check = Callable[[], None]
"""Called several times a second by whoever waits; raises what ends the waiting."""


class EngineGone(Exception):
    """The process ended by itself; the text says how."""


class EngineProcess:
    """A process, from its start to its end: a pipe each way, and a thread that takes what comes. For one thread."""

    def __init__(self, first: dict[str, Any], emit: Emit) -> None:
        """Start it. ``first``: its first message; ``emit`` gets the engine's events, in order, from another thread."""
        self._emit = emit
        self._number = 0
        self._outgoing = bytearray(wire.encode(first))
        self._ended = False
        self._answers: SimpleQueue[list[Any] | Exception | None] = SimpleQueue()
        # Without keys, and without what would lead the SDK elsewhere.
        kept = {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("OPENAI_")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hivemind_exp.offload.process.server", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | wire.search_path(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        self.pid = self._process.pid
        os.set_blocking(self._input, False)
        self._reader = threading.Thread(target=self._read, name="engine", daemon=True)
        self._reader.start()

    def ready(self, check: Check) -> None:
        """Wait until the engine runs. Raises what starting it raised there, and ``EngineGone``."""
        self._flush(check)
        self._await(0, check)

    def post(self, name: str, argument: object, check: Check) -> int:
        """Ask for something; return its number. Raises ``EngineGone``."""
        self._number += 1
        self._outgoing += wire.encode([self._number, name, argument])
        self._flush(check)
        return self._number

    def call(self, name: str, argument: object, check: Check) -> None:
        """Ask for something and wait until it is done. Raises what it raised there, and ``EngineGone``."""
        self._await(self.post(name, argument, check), check)

    def close(self, seconds: float) -> None:
        """Ask the engine to end, and wait: its last events have been emitted afterwards. It is killed if it stays."""
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
        """Wait for the end of the pipe and of the process, and return how it ended."""
        self._reader.join()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()  # it closed its pipe and stays
        status = self._process.wait()
        self._ended = True
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with code {status}"

    def _flush(self, check: Check) -> None:
        """Write what is still to be written. What ``check`` interrupts goes out before the next message."""
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
                except Exception as error:  # noqa: BLE001 - a full disk, say: whoever waits raises it
                    self._answers.put(error)
        self._answers.put(None)


@dataclass(eq=False)
class OffloadClient:
    """The API's side of a node, used as an ``Engine`` is, which says what each method does.

    Should the process die, another goes on: what the journal holds is not asked for again, what was in flight counts
    as spent, as after any crash.
    """

    _config: Config
    _files: NodeFiles
    _secrets: Secrets
    """Only keys of the chain's services go to the process."""
    _emit: Emit
    _stop: StopFlag
    _process: EngineProcess | None = None
    _orders: dict[tuple[int, str, str], CompletionRequest] = field(default_factory=dict)
    _deaths: int = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process. Raises ``StopRequested``, and ``NodeError`` for settings that cannot work."""
        try:
            self._open(again=False)
        except EngineGone as gone:
            raise self._lost(gone) from gone
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

    def close(self) -> None:
        """Let answers in flight come in for a moment, then end the process; it reports what is not reported yet."""
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
        names = {endpoint.name for endpoint in chain(self._config) if endpoint is not None}
        first = {
            "config": self._config.model_dump(mode="json"),
            "node_dir": str(self._files.root),
            "secrets": {name: key for name in names if (key := self._secrets.get(name)) is not None},
            "again": again,
        }
        self._process = EngineProcess(first, self._emit)
        self._process.ready(self._stop.check)

    def _revive(self, gone: EngineGone) -> None:
        """Start another process and have it go on. Raises ``NodeError`` where that does not help."""
        while True:
            self._deaths += 1
            if self._deaths == LIVES:
                raise self._lost(gone) from gone
            message = f"the process that asks APIs {gone}; another goes on, and what was in flight counts as spent"
            self._emit(WarningEvent(code="engine_restarted", message=message))
            try:
                self._open(again=True)
                self._running.post("place", pack_orders(self._unfilled()), self._stop.check)
                return
            except EngineGone as again:
                gone = again

    def _unfilled(self) -> list[CompletionRequest]:
        with contextlib.closing(Journal(self._files.journal, charter_id(self._config), durable=False)) as journal:
            left = [(order, tuple(unfilled(journal, order))) for order in self._orders.values()]
        return [replace(order, indices=places, done=Future()) for order, places in left if places]

    def _lost(self, gone: EngineGone) -> NodeError:
        self._kill()
        times = f", {self._deaths} times before a round was done" if self._deaths > 1 else ""
        return NodeError(
            f"the process that asks APIs {gone}{times}: the node's log may say why",
            next=f"swarmctl logs --node {self._config.node.name}",
        )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def open_offload(
    config: Config, files: NodeFiles, secrets: Secrets, emit: Emit, stop: StopFlag
) -> OffloadClient | None:
    """Start the API's side, in a process of its own; None where this machine generates everything.

    Raises ``NodeError`` for settings that cannot work, a missing key, a price that nobody knows.
    """
    if not is_offloaded(config):
        return None
    offload = OffloadClient(config, files, secrets, emit, stop)
    offload.start()
    return offload
