"""One life of the engine's process, as the trainer sees it: a pipe each way, and a thread that takes what comes."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from hivemind_exp.events import EVENTS, Emit
from hivemind_exp.offload.process.frames import unpack_error
from hivemind_exp.processes import messages as wire
from hivemind_exp.processes.messages import messages, search_path
from hivemind_exp.secrets import without_secrets

_CHUNK = 2**16
_POLL_S = 0.05
_END_S = 1.0
"""What a process gets to end after its pipe did."""
Check = Callable[[], None]
"""Called several times a second by whoever waits; raises what ends the waiting."""


class EngineGone(Exception):
    """The process ended by itself; the text says how."""


class EngineProcess:
    """A process, from its start to its end. For one thread."""

    def __init__(self, first: dict[str, Any], emit: Emit) -> None:
        """Start it. ``first``: its first message; ``emit`` gets the engine's events, in order, from another thread."""
        self._emit = emit
        self._number = 0
        self._outgoing = bytearray(wire.encode(first))
        self._ended = False
        self._answers: SimpleQueue[list[Any] | Exception | None] = SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hivemind_exp.offload.process.server", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._reader = threading.Thread(target=self._read, name="engine", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

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
        """End the process at once."""
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
            for message in messages(self._output):
                if message[0] == "event":
                    self._pass_on(*message[1:])
                else:
                    self._answers.put(message)
        self._answers.put(None)

    def _pass_on(self, event: str, fields: dict[str, Any]) -> None:
        try:
            self._emit(EVENTS[event](**fields))
        except Exception as error:  # noqa: BLE001 - a full disk, say: whoever waits raises it
            self._answers.put(error)


def _environment() -> dict[str, str]:
    """Return this process's environment without keys, and without what would lead the SDK elsewhere."""
    kept = {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("OPENAI_")}
    return kept | search_path()
