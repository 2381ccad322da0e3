"""The engine process: fills the trainer's orders, which arrive over a pipe, from APIs. Exits when the pipe closes.

It is a separate process because each request costs about a millisecond of interpreter time and a training step is
itself mostly Python: as threads of one interpreter they would wait for each other.

Started as ``python -P -m hivemind_exp.offload.process.server PARENT_PID``. The first message is
``{"config": {…}, "node_dir": "…", "secrets": {…}, "again": false}``; API keys come only this way. Each later message is
a call, ``[number, name, argument]``. The first message (as number 0) and the calls are answered in order, with
``["done", number]`` or ``["failed", number, error]``. The engine's events, ``["event", name, fields]``, come in
between. The call ``close`` gets no answer: the process exits.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError, from_code
from hivemind_exp.events import Event
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.build import make_offload
from hivemind_exp.processes import sandbox
from hivemind_exp.processes.kernel import hide_memory
from hivemind_exp.processes.messages import messages, send, take_pipes
from hivemind_exp.rollouts.types import CompletionRequest, TokensToScore
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag, StopRequested

Call = tuple[int, str, Any]


class EngineServer:
    """Runs an engine and sends answers and events to the trainer."""

    def __init__(self, sink: int) -> None:
        """Write to the pipe ``sink``; safe from any thread."""
        self._sink = sink
        self._lock = threading.Lock()
        self.stop = StopFlag()

    def emit(self, event: Event, /) -> None:
        self._send(["event", event.event_name(), event.model_dump()])

    def serve(self, first: dict[str, Any], calls: SimpleQueue[Call]) -> int:
        """Start the engine and run calls one after the other until ``close``; return the exit status."""
        config, files = Config.model_validate(first["config"]), NodeFiles(Path(first["node_dir"]))
        secrets, announce = Secrets(first["secrets"]), not first["again"]
        try:
            engine = make_offload(config, files, secrets, self.emit, self.stop, announce=announce)
        except Exception as error:  # noqa: BLE001 - the trainer raises it
            self._fail(0, error)
            return 1
        self._send(["done", 0])
        does: dict[str, Callable[[Any], object]] = {
            "probed": lambda _: engine.wait_for_probe(),
            "place": lambda orders: engine.submit(unpack_orders(orders)),
            "wait": lambda args: engine.wait(*args),
            "tell": engine.report_spend,
            "set_aside": lambda args: engine.set_aside(*args),
        }
        while True:
            number, name, argument = calls.get()
            if name == "close":
                engine.close()
                return 0
            try:
                does[name](argument)
            except StopRequested:
                continue  # requested by ``close``, which comes next: the trainer no longer waits for an answer
            except Exception as error:  # noqa: BLE001 - the trainer raises it
                self._fail(number, error)
            else:
                self._send(["done", number])

    def _fail(self, number: int, error: Exception) -> None:
        packed = pack_error(error)
        if "type" in packed:  # a bug: the trainer's log shows where
            traceback.print_exception(error)
        self._send(["failed", number, packed])

    def _send(self, message: object) -> None:
        with self._lock:
            send(self._sink, message)


def listen(asked: Iterator[Any], stop: StopFlag, calls: SimpleQueue[Call]) -> None:
    """Queue calls, even while one is running. When the pipe closes, the trainer is dead: exit."""
    try:
        for number, name, argument in asked:
            if name == "close":
                stop.set()
            calls.put((number, name, argument))
    finally:
        os._exit(1)


def main(parent: int) -> int:
    """Serve until the trainer sends ``close``; return the exit status."""
    sandbox.die_with_parent(parent)
    hide_memory()
    os.nice(5)  # this process mostly waits for the network, and must not slow down a training step
    source, sink = take_pipes()
    asked = messages(source)
    host, calls = EngineServer(sink), SimpleQueue[Call]()
    first = next(asked)
    threading.Thread(target=listen, args=(asked, host.stop, calls), daemon=True).start()
    return host.serve(first, calls)


def pack_orders(orders: Iterable[CompletionRequest]) -> list[Any]:
    """Return orders as plain lists, without the state of their processing."""
    return [
        [o.round, o.stage, o.question, o.messages, o.indices, o.version, o.scored and astuple(o.scored)] for o in orders
    ]


def unpack_orders(packed: Iterable[Any]) -> list[CompletionRequest]:
    """Return the requests that the trainer's process packed (``pack_orders``)."""
    return [
        CompletionRequest(
            *(round_, stage, question, tuple(messages), tuple(places), version),
            scored=scored and TokensToScore(*map(tuple, scored)),
        )
        for round_, stage, question, messages, places, version, scored in packed
    ]


def pack_error(error: BaseException) -> dict[str, Any]:
    """Return what the trainer needs to know about an error, without its traceback."""
    if isinstance(error, NodeError):
        return {"code": error.code, "message": error.message, "next": error.next}
    if isinstance(error, OSError) and error.errno is not None:
        return {"errno": error.errno, "text": error.strerror or str(error)}
    return {"type": type(error).__name__, "text": str(error)}


def unpack_error(packed: dict[str, Any]) -> Exception:
    """Return the packed error as an exception.

    A ``NodeError`` keeps its class and an ``OSError`` its errno; a bug becomes a ``RuntimeError`` that names its type.
    """
    if "code" in packed:
        return from_code(packed["code"], packed["message"], packed["next"])
    if "errno" in packed:
        return OSError(packed["errno"], packed["text"])
    if packed["type"] == "MemoryError":
        return MemoryError(packed["text"])
    return RuntimeError(f"in the API process: {packed['type']}: {packed['text']}")


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)
