"""The process that loads a model (``hivemind_exp.trained``): start it, read its events, and end it."""

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from subprocess import PIPE, Popen
from typing import IO, Any

from hivemind_exp.errors import NodeError
from hivemind_exp.processes.ending import how_ended
from swarmctl.run import trainer_process as trainer
from swarmctl.terminal.streams import can_draw
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting
from swarmctl.trained.pinned_checkpoint import pinned_checkpoint
from swarmctl.trained.target import TrainedNode

MODULE = "hivemind_exp.trained"


@dataclass(eq=False)
class ModelProcess:
    """A running process."""

    _process: Popen[bytes]
    _errors: IO[bytes]
    _quiet: bool

    def events(self, *last: str) -> Iterator[dict[str, Any]]:
        """Yield events, up to and including one that is named in ``last``, or until the process has done everything.

        Prints what takes a while. Raises the NodeError that the process reports.
        """
        say, phase = Writer(sys.stderr), None
        assert self._process.stdout is not None
        while True:
            # On a terminal, the text that follows shows that something happens.
            silent = phase is None or self._quiet
            with nullcontext() if silent else waiting(say, str(phase)):
                line = self._process.stdout.readline()
            event = json.loads(line) if line else self._died()
            phase = None
            match event["event"]:
                case "phase":
                    phase = event["name"]
                    if not self._quiet and not can_draw(sys.stderr, os.environ):  # ``waiting`` draws it there
                        say(f"{phase[:1].upper()}{phase[1:]}.")
                case "warning":
                    say(f"warning: {event['message']}")
                case "error":
                    raise trainer.reported(event)
                case "end" | "stopped":
                    return
                case _:
                    yield event
            if event["event"] in last:
                return

    def send(self, line: bytes) -> None:
        """Send a line. Does nothing if the process has died, which reading its events reports."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def say(self, text: str) -> None:
        """Send what the user says."""
        self.send(json.dumps({"say": text}).encode() + b"\n")

    def interrupt(self) -> None:
        """End what is being generated."""
        self._process.send_signal(signal.SIGINT)

    def _died(self) -> dict[str, Any]:
        self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise NodeError(f"the process that loads the model {how_ended(self._process.returncode)}: {last}")


@contextmanager
def model_process(
    mode: str, node: TrainedNode, *, quiet: bool, module: str = MODULE, whole: bool = False, **more: Any
) -> Iterator[ModelProcess]:
    """Start a process that does ``mode`` with a node's model; ``more`` is what the mode needs. Kill it at the end.

    With ``quiet``, it does not print what takes a while. ``whole``: the mode also needs the state of the optimizer.
    """
    with (
        pinned_checkpoint(node, whole=whole) as held,
        tempfile.TemporaryFile() as errors,
        trainer.pipe_with(node.secrets) as secrets_fd,
    ):
        at = held.checkpoint and (held.at() or {}) | {"path": str(held.checkpoint.path)}
        pass_fds = () if secrets_fd is None else (secrets_fd,)
        process = trainer.spawn(module, node.config, PIPE, pass_fds, errors=errors)
        try:
            started = ModelProcess(process, errors, quiet)
            root = node.files.root
            started.send(
                trainer.request(mode, node.config, root, secrets_fd, checkpoint=at, style=asdict(node.style), **more)
            )
            yield started
        finally:
            trainer.end_session(process)
