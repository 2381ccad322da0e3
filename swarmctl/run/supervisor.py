"""Run the trainer as a child process: feed its events to a display, forward stop signals, report how it ended."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, BinaryIO, Self

from hivemind_exp.config import Config
from hivemind_exp.run_record import RunRecord, open_record, read_record
from swarmctl.nodes import start_over
from swarmctl.nodes.directory import Node
from swarmctl.nodes.frozen import FrozenWatch
from swarmctl.nodes.history import past_evaluations
from swarmctl.run import trainer_process as trainer
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.event_log import EventReader
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import Display

PROMISE_S = 5
"""Seconds within which the trainer should stop, as shown to the user."""
GRACE_S = 8
"""Seconds until it is killed, without those in which it waits for a busy CPU or disk. Nothing is lost, because every
step is in the journal. Before the trainer has started, there is nothing to lose and imports do not react to signals, so
it is killed after ``PROMISE_S`` by the clock."""
POLL_S = 0.1
_POLLS_PER_LOOK = 20
"""Polls between two looks for stopped processes, which read the list of all processes."""


@dataclass(frozen=True, slots=True)
class TrainerExit:
    """How a trainer ended."""

    returncode: int
    asked: signal.Signals | None
    """The signal that requested the stop; SIGINT takes precedence."""
    killed: bool
    """Whether it was killed here, after a second request or after taking too long."""
    output: bytes
    """The end of its output."""


class StopSignals:
    """Collects stop signals during the block. A signal that is ignored (nohup) stays ignored."""

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
        """The signal that determines the exit code."""
        if signal.SIGINT in self.received:
            return signal.SIGINT
        return self.received[0] if self.received else None

    @property
    def impatient(self) -> bool:
        """Whether Ctrl-C was pressed after an earlier stop signal. (SIGTERM and SIGHUP often come together.)"""
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
    """Run ``node``'s trainer until it ends, with the keys that it needs.

    However this function returns or raises, none of the trainer's processes and sockets is left.
    """
    for event in past_evaluations(node.files):
        progress.apply(event)
    tail = EventReader(node.files.events)
    with disk_errors(node.files.root):
        open_record(node.files.run)
        log = trainer.open_log(node.files.log)
    with log:
        log_start = os.fstat(log.fileno()).st_size
        if signals.received:
            return TrainerExit(0, signals.asked, False, b"")
        process = trainer.start(module, config, node.files.root, log, node.lock, secrets=secrets)
        try:
            locks.write_holder(node.lock, process.pid)

            def show() -> None:
                for event in tail():
                    progress.apply(event)
                    display.event(event, progress)
                start_over.discard(node.files)
                display.tick(progress)

            killed = _watch(process, signals, show, display, lambda: progress.start is not None)
        finally:
            trainer.end_session(process)
            if config.swarm.charter is not None:  # a trainer that was killed leaves sockets
                from hivemind_exp.swarm.dht.leftovers import reap

                reap(node.files.key)
        show()
        record = read_record(node.files.run) or RunRecord()  # not the log, which may have been rotated or deleted
        for event in filter(None, (None if progress.start else record.start, record.error, record.stop)):
            progress.apply(event)
        return TrainerExit(process.returncode, signals.asked, killed, _tail(log, log_start))


def _watch(
    process: subprocess.Popen[bytes],
    signals: StopSignals,
    show: Callable[[], None],
    display: Display,
    started: Callable[[], bool],
) -> bool:
    """Wait until the trainer ends; return whether it must be killed. ``started``: whether it has something to lose."""
    from hivemind_exp.processes.progress import AbleTime

    able: AbleTime | None = None
    asked = 0.0
    stopped, polls = FrozenWatch(process.pid), itertools.count()
    while process.poll() is None:
        show()
        for sentence in stopped.look() if next(polls) % _POLLS_PER_LOOK == 0 else ():
            display.note(sentence)
        if signals.received and able is None:
            able, asked = AbleTime(process.pid), time.monotonic()
            again = "; press Ctrl-C again to stop immediately" if signals.asked is signal.SIGINT else ""
            display.note(f"Stopping within {PROMISE_S} s{again}.")
            # Only the trainer: it still needs its verifiers to finish its work.
            process.terminate()
        if able is not None:
            late = able.look() > GRACE_S if started() else time.monotonic() - asked > PROMISE_S
            if signals.impatient or late:
                return True
        time.sleep(POLL_S)
    return False


def _tail(log: BinaryIO, start: int, size: int = 65536) -> bytes:
    """Return the end of the trainer's output since ``start``, even if the file was renamed, deleted or truncated."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - size) if start <= end else max(0, end - size))
    return log.read()
