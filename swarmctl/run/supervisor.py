"""Runs the trainer as a child: feeds its events to a display, passes on the wish to stop, explains its end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.directory import Node
from swarmctl.run import trainer_process as trainer
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.event_log import EventReader, all_of
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import Display

PROMISE_S = 5
"""What the trainer may take to stop."""
GRACE_S = 8
"""After this it is killed; nothing is lost, as every step is in the journal. Before the first step there is nothing
to lose, and imports do not listen: then the promise is the limit."""
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class TrainerExit:
    """How a trainer ended."""

    returncode: int
    asked: signal.Signals | None
    """The signal that asked for the end, an interrupt before any other."""
    killed: bool
    """It was killed here, for being asked twice or for taking too long."""
    log_start: int
    """Where this run begins in the trainer's log."""


class StopSignals:
    """Collects the signals that ask for an end while the block lasts. One that is ignored (nohup) stays so."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))

    @property
    def asked(self) -> signal.Signals | None:
        """The signal that decides the exit code."""
        if signal.SIGINT in self.received:
            return signal.SIGINT
        return self.received[0] if self.received else None

    @property
    def impatient(self) -> bool:
        """Someone pressed Ctrl-C after having asked already. (SIGTERM and SIGHUP often come together.)"""
        return len(self.received) > 1 and signal.SIGINT in self.received[1:]


def supervise(
    node: Node,
    config: Config,
    display: Display,
    progress: RunView,
    signals: StopSignals,
    *,
    secrets: Mapping[str, str],
    module: str,
) -> TrainerExit:
    """Run the trainer of ``node`` to its end, with the keys that it needs.

    No process of it is left, however this function is left.
    """
    for event in all_of(node.files.events, "eval"):  # what earlier runs measured
        progress.apply(event)
    tail = EventReader(node.files.events)
    with disk_errors(node.files.root):
        log = trainer.open_log(node.files.log)
    with log:
        log_start = os.fstat(log.fileno()).st_size
        if signals.received:
            return TrainerExit(0, signals.asked, False, log_start)
        process = trainer.start(module, config, node.files.root, log, node.lock, secrets=secrets)
        try:
            locks.write_holder(node.lock, process.pid)

            def show() -> None:
                for event in tail():
                    progress.apply(event)
                    display.event(event, progress)
                display.tick(progress)

            killed = _watch(process, signals, show, display, lambda: GRACE_S if progress.start else PROMISE_S)
        finally:
            trainer.end_session(process)
        show()
        return TrainerExit(process.returncode, signals.asked, killed, log_start)


def _watch(
    process: subprocess.Popen[bytes],
    signals: StopSignals,
    show: Callable[[], None],
    display: Display,
    grace: Callable[[], float],
) -> bool:
    """Wait for the trainer's end; return whether it has to be killed."""
    deadline: float | None = None
    while process.poll() is None:
        show()
        if signals.received and deadline is None:
            deadline = time.monotonic() + grace()
            again = "; press Ctrl-C again to end at once" if signals.asked is signal.SIGINT else ""
            display.note(f"Stopping within {PROMISE_S} s{again}.")
            # Only the trainer: its verifiers must live until it has finished what it does.
            process.terminate()
        if deadline is not None and (signals.impatient or time.monotonic() > deadline):
            return True
        time.sleep(POLL_S)
    return False


def log_tail(files: NodeFiles, start: int, size: int = 65536) -> bytes:
    """Return the end of what the trainer printed since ``start``."""
    try:
        with files.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - size) if start <= end else max(0, end - size))
            return file.read()
    except OSError:
        return b""
