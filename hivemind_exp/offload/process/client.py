"""The engine as the trainer uses it: in a process of its own, started again where it dies."""

from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import NodeError
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.answers import unfilled
from hivemind_exp.offload.endpoints import chain, is_offloaded
from hivemind_exp.offload.engine import PARTING_S
from hivemind_exp.offload.process.child import EngineGone, EngineProcess
from hivemind_exp.offload.process.frames import pack_orders
from hivemind_exp.rollouts.orders import CompletionRequest
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag

LIVES = 3
"""Processes in a row that may die before a round is done."""
_LEAVE_S = PARTING_S + 2.5
"""What the process gets to end: less than the node itself gets, so that the node can end it."""


class OffloadClient:
    """The API's side of a node, an ``OffloadEngine``. ``start`` it, use it from the trainer's thread, ``close`` it.

    Should the process die, another goes on: what the journal holds is not asked for again, what was in flight counts
    as spent, as after any crash.
    """

    def __init__(self, config: Config, files: NodeFiles, secrets: Secrets, emit: Emit, stop: StopFlag) -> None:
        """Take what an engine is made of. Only keys of the chain's services go to its process."""
        self._config = config
        self._files = files
        self._secrets = secrets
        self._emit = emit
        self._stop = stop
        self._process: EngineProcess | None = None
        self._orders: dict[tuple[int, str, str], CompletionRequest] = {}
        self._deaths = 0

    @property
    def pid(self) -> int | None:
        """The process's, while there is one."""
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
        """Wait until the first provider was asked something small.

        Raises ``StopRequested``, and ``NodeError`` where neither it nor another can be used.
        """
        self._call("probed", None)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        placed = {(order.round, order.stage, order.question): order for order in orders}
        new = {key: order for key, order in placed.items() if key not in self._orders}
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
        """Let answers in flight come in for a moment, then end the process; it tells what is not told yet."""
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
        """Return what is left of the orders."""
        with closing(Journal(self._files.journal, charter_id(self._config), durable=False)) as journal:
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
