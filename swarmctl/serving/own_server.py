"""A server of the node's own weights, as a process: started before the trainer, restarted if it ends, then stopped."""

import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ProviderError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.nvidia import count_gpus
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.processes.ending import how_ended
from swarmctl.serving.gpus import Place, place_server
from swarmctl.serving.registry import server_engine
from swarmctl.storage.process_log import limit_log, open_log, tail

POLL_S = 0.2
_ANSWER_S = 2.0
RESTARTS = 5
"""How often in a row a server that ends is started again."""
_CLOSE_S = 10.0
_LAST_LINES = 3
"""Lines among which an error is looked for. The last line is shown if there is none."""
_ERROR = re.compile(r"error\b[:,]", re.IGNORECASE)
_LONGEST = 2**20
"""Bytes of an answer that are read."""


class OwnServer:
    """One server. Call its methods from one thread."""

    def __init__(self, config: Config, files: NodeFiles) -> None:
        """Choose its command, port and GPU. Raises ``ConfigurationError`` if it cannot be started like this."""
        self.place = place_server(config, os.environ, count_gpus())
        self.engine = server_engine(config)
        self.program = self.engine.program(config)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        started = _with_serving(config, turns="on" if self.place.turns else "off")
        url = f"http://127.0.0.1:{self.port}/v1"
        self.config = _with_serving(started, command="", arguments=[], gpu=None, urls=[url])
        """The configuration for the trainer, to which this is a server like any other."""
        self._command = [*self.program, *self.engine.arguments(started, self.port, self.place)]
        self._environment = self.engine.environment(os.environ, self.place, config.model.lora is None)
        self.log_path: Path = files.server_log
        self._log = open_log(self.log_path)
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._was_ready = False

    def start(self) -> None:
        """Start the server's process. It ends when this process does."""
        self._log_start = os.fstat(self._log.fileno()).st_size
        self._was_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "swarmctl.serving.guard", *self._command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,
        )

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until the server answers, or until ``stopped``. Raises ``ProviderError`` if it ends before."""
        assert self._process is not None
        while not stopped() and not self._answers():
            if self._process.poll() is not None:
                log = shlex.quote(str(self.log_path))
                raise ProviderError(f"{self._ended()}.{self._why()}", next=f"tail -n 50 {log}")
            time.sleep(POLL_S)
        self._was_ready = True

    def look(self) -> Iterator[str]:
        """Start the server again if it has ended; yield what happened, as clauses. Called every few seconds."""
        limit_log(self._log, self.log_path)
        if self._process is None:
            return
        if self._process.poll() is None:
            if not self._was_ready and self._answers():
                self._was_ready, self._failures = True, 0
            return
        self._failures += 1
        told = f"{self._ended()}.{self._why()}"
        self._close_pipe()
        self._process = None
        if self._failures > RESTARTS:
            yield f"{told} It is not started again; see {self.log_path}"
            return
        yield f"{told} Starting it again ({self._failures} of {RESTARTS} in a row)"
        self.start()

    def settle(self, stopped: Callable[[], bool]) -> Iterator[str]:
        """Restart the server if a trainer that was killed left it in an unknown state, and wait until it answers.

        Yields what happened, as clauses. Called when no trainer is running. ``stopped``: as for ``wait``.
        """
        if self._process is None or not self._is_unknown():
            return
        yield (
            f"The trainer ended while {self.engine.title} fell asleep or woke up, so nobody knows whether it sleeps. "
            "Starting it again"
        )
        self._stop()
        self.start()
        with suppress(ProviderError):  # ``look`` starts it again
            self.wait(stopped)

    def close(self) -> None:
        """Stop the server and all its processes."""
        if self._process is not None:
            self._stop()
        self._log.close()

    def _stop(self) -> None:
        assert self._process is not None
        self._close_pipe()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _close_pipe(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _answers(self) -> bool:
        return self._get("/health") is not None

    def _is_unknown(self) -> bool:
        """Whether nobody knows if the server sleeps."""
        if self.engine.unknown is None:
            return False
        path, name, start = self.engine.unknown
        try:
            found = json.loads(self._get(path) or b"null")
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and str(found.get(name)).startswith(start)

    def _get(self, path: str) -> bytes | None:
        """Return what the server answers; None if it does not, or with an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read(_LONGEST) if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _ended(self) -> str:
        assert self._process is not None
        code = self._process.returncode
        return f"{foreign(Path(self.program[0]).name)} {how_ended(code if code < 128 else 128 - code)}"

    def _why(self) -> str:
        """Return what its output says about its end, as sentences without the last full stop; may be empty."""
        output = tail(self._log, self._log_start).decode(errors="replace")
        for pattern, remedy in self.engine.causes:
            if re.search(pattern, output, re.IGNORECASE):
                return f" {remedy}"
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        wrong = [line for line in lines[-_LAST_LINES:] if _ERROR.search(line)]  # hints may follow the error
        return f" It printed: {foreign((wrong or lines)[-1])}" if lines else ""


def _with_serving(config: Config, **changes: object) -> Config:
    serving = config.offload.serving.model_copy(update=changes)
    return config.model_copy(update={"offload": config.offload.model_copy(update={"serving": serving})})


@contextmanager
def served(config: Config, files: NodeFiles) -> Iterator[OwnServer | None]:
    """Yield the node's own server, not yet started; None if the node has none. It is stopped afterwards.

    Raises ``NodeError`` if it cannot be started as configured.
    """
    if not config.offload.serving.command:
        yield None
        return
    server = OwnServer(config, files)
    try:
        yield server
    finally:
        server.close()


def check_own_server(config: Config) -> None:
    """Raise a ``NodeError`` if the node's own server cannot be started as configured. Starts nothing."""
    if config.offload.serving.command:
        engine = server_engine(config)
        engine.program(config)
        engine.arguments(config, 1, place_server(config, os.environ, count_gpus()))


def introduction(server: OwnServer) -> list[str]:
    """Return what a run says about its server."""
    where = "" if server.place.gpu is None else f" on GPU {server.place.gpu}"
    lines = [
        f"The node starts {server.program[0]}{where}, and stops it when the run ends. Its log: {server.log_path}",
    ]
    return [*lines, f"{sharing(server.place)}."] if server.place.shared or server.place.turns else lines


def sharing(place: Place) -> str:
    """Return how a node and its server share a GPU, as sentences without the last full stop."""
    if not place.shared:
        return f"The server sleeps while the node trains ({place.why})"
    share = round(100 * (place.memory or 1))
    if place.turns:
        return (
            f"The node trains on the same GPU, so they take turns ({place.why}): while the server generates, it has "
            f"{share} % of the memory, and while the node trains, it sleeps. To let both work at the same time, set "
            "offload.serving.turns=off"
        )
    return (
        f"The node trains on the same GPU at the same time ({place.why}), so the server keeps {share} % of its memory. "
        "To change that, set offload.serving.arguments or offload.serving.gpu"
    )
