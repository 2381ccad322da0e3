"""Run the trainer as a child process: feed its events to a display, watch it, forward stop signals, report its end."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, BinaryIO, Self

from hivemind_exp.config import Config
from hivemind_exp.run_record import RunRecord, open_record, read_record
from swarmctl.nodes import start_over
from swarmctl.nodes.directory import Node
from swarmctl.nodes.frozen import FrozenWatch, frozen
from swarmctl.nodes.history import past_evaluations
from swarmctl.run import trainer_process as trainer
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.event_log import EventReader
from swarmctl.storage.json_file import now, rfc3339
from swarmctl.storage.process_log import limit_log, open_log, tail
from swarmctl.supervision.growth import GrowthWatch, measure
from swarmctl.supervision.memory import MemoryWatch
from swarmctl.supervision.silence import SilenceWatch
from swarmctl.supervision.sleep import SleepWatch
from swarmctl.terminal.interrupting import end_line
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.sentences import duration
from swarmctl.terminal.views import Display

PROMISE_S = 5
"""Seconds within which the trainer should stop, as shown to the user."""
GRACE_S = 8
"""Seconds until it is killed, without those in which it waits for a busy CPU or disk. Nothing is lost, because every
step is in the journal. Before the trainer has started and while it chooses a prompt style, there is nothing to lose,
and imports and the first pass over many prompts do not react to signals, so it is killed after ``PROMISE_S`` by the
clock."""
POLL_S = 0.1
_POLLS_PER_LOOK = 20
"""Polls between checks of the trainer's processes and the clocks."""
_POLLS_PER_MEASURE = 600
"""Polls between two measurements of what the trainer uses."""
_DUMP_S = 1.0
"""Seconds for a trainer that hangs to write its stacks."""
SLEPT = "slept"
"""The code of the note that the machine slept."""


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
    hung: str | None = None
    """What showed that it hangs, if it was killed here for that."""
    out_of_memory: bool | None = None
    """Whether the kernel killed it because memory ran out; None if the kernel does not say."""
    memory: str = ""
    """The memory that it used, and the limit, such as ``7.9 of 8.0 GiB``."""
    lasted_s: float = 0.0
    """Seconds that it ran."""


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


class Supervisor:
    """Runs a node's trainer, once or again and again, with the keys that it needs."""

    def __init__(
        self,
        node: Node,
        display: Display,
        progress: RunView,
        signals: StopSignals,
        *,
        secrets: Mapping[str, str],
        module: str,
        hang_after: float = 0.0,
        look: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``hang_after``: as ``supervision.hang_after``; 0: a trainer that hangs is left alone.

        ``look``: called every few seconds while the trainer runs; returns warnings to log and show.
        """
        self.node, self.display, self.progress, self.signals = node, display, progress, signals
        self.restarts = 0
        """How often the trainer was restarted."""
        self._secrets, self._module, self._hang_after, self._look = secrets, module, hang_after, look
        self._since = now()
        self._trainer: int | None = None
        self._tail = EventReader(node.files.events)
        self._sleep = SleepWatch()
        self._asleep = False
        for event in past_evaluations(node.files):
            progress.apply(event)

    def run(self, config: Config) -> TrainerExit:
        """Run the trainer until it ends.

        However this function returns or raises, none of the trainer's processes and sockets is left.
        """
        files, progress = self.node.files, self.progress
        with disk_errors(files.root):
            open_record(files.run)
            log = open_log(files.log)
        progress.start = progress.phase = progress.error = progress.stop = None
        progress.stopping = False
        with log:
            log_start = os.fstat(log.fileno()).st_size
            if self.signals.received:
                return TrainerExit(0, self.signals.asked, False, b"")
            began = time.monotonic()
            process = trainer.start(self._module, config, files.root, log, self.node.lock, secrets=self._secrets)
            memory = MemoryWatch(process.pid)
            try:
                self._trainer = process.pid
                self.describe(None)
                killed, hung = self._watch(process, config, memory, log)
            finally:
                trainer.end_session(process)
                self._trainer = None
                if config.swarm.charter is not None:  # a trainer that was killed leaves sockets
                    from hivemind_exp.swarm.dht.leftovers import kill_leftovers

                    kill_leftovers(files.key)
            self.show()
            record = read_record(files.run) or RunRecord()  # not the log, which may have been rotated or deleted
            for event in filter(None, (None if progress.start else record.start, record.error, record.stop)):
                progress.apply(event)
            return TrainerExit(
                process.returncode,
                self.signals.asked,
                killed,
                tail(log, log_start),
                hung=hung,
                out_of_memory=memory.was_killed(),
                memory=memory.figures,
                lasted_s=time.monotonic() - began,
            )

    def show(self, silence: SilenceWatch | None = None) -> list[dict[str, Any]]:
        """Show the events since the last call, and return them."""
        events = list(self._tail())
        for event in events:
            self.progress.apply(event)
            self.display.event(event, self.progress)
            if silence is not None:
                silence.event(event)
            if self._asleep and event.get("code") != SLEPT:
                self._asleep = False
                self.describe(None)
        start_over.discard(self.node.files)
        self.display.tick(self.progress)
        return events

    def say(self, code: str, message: str, *, warns: bool = True) -> None:
        """Log and show a sentence. On a full disk, it is only shown."""
        from hivemind_exp.event_log import EventLog
        from hivemind_exp.events import NoteEvent, WarningEvent  # imports pydantic, which is slow

        event = (WarningEvent if warns else NoteEvent)(code=code, message=message)
        with suppress(OSError), closing(EventLog(self.node.files.events)) as emit:
            emit(event)
        if not any(each.get("message") == message for each in self.show()):
            self.display.note(f"{'warning: ' if warns else ''}{message}.")

    def describe(self, state: str | None, detail: str = "", *, until: float | None = None) -> None:
        """Write for ``status`` what the node is doing instead of training; None: it trains.

        ``detail``: a sentence for people; ``until``: when this ends, in Unix seconds.
        """
        doing = {"state": state, "detail": detail, "until": None if until is None else rfc3339(until)}
        locks.write_holder(
            self.node.lock,
            self._trainer,
            since=self._since,
            restarts=self.restarts,
            doing=None if state is None else doing,
        )

    def look_at_the_clock(self) -> None:
        """Say so if the machine slept, or if its clock was set."""
        slept, jumped = self._sleep.look()
        if slept:
            swarm = self.node.files.charter.exists()
            told = f"slept {duration(round(slept))}, {'rejoining' if swarm else 'continuing'}"
            if self._trainer is not None:  # otherwise, what the supervisor waits for is worth more
                self._asleep = True
                self.describe("asleep", told)
            self.say(SLEPT, f"This machine {told}", warns=False)
        if jumped:
            way = "forward" if jumped > 0 else "back"
            self.say("clock", f"This machine's clock was set {way} by {duration(round(abs(jumped)))}", warns=False)

    def _watch(
        self, process: subprocess.Popen[bytes], config: Config, memory: MemoryWatch, log: BinaryIO
    ) -> tuple[bool, str | None]:
        """Wait until the trainer ends; return whether it must be killed, and what shows that it hangs, if it does."""
        from hivemind_exp.processes.progress import ProcessClock

        clock: ProcessClock | None = None
        asked = 0.0
        stopped, polls = FrozenWatch(process.pid), itertools.count()
        silence = SilenceWatch(process.pid, self._hang_after, self.node.files.lock) if self._hang_after else None
        growth = GrowthWatch(memory.limit, config.journal.keep_rounds, config.game.rounds)
        while process.poll() is None:
            self.show(silence)
            poll = next(polls)
            if poll % _POLLS_PER_LOOK == 0:
                for sentence in stopped.look():
                    self.display.note(sentence)
                for sentence in self._look():
                    self.say("own_server", sentence)
                memory.look()
                self.look_at_the_clock()
                hangs = clock is None and silence is not None and silence.look()
                if hangs and silence is not None and (hung := self._hung(process, silence)) is not None:
                    return True, hung
            if poll % _POLLS_PER_MEASURE == 0:
                limit_log(log, self.node.files.log)
                for sentence in growth.take(measure(process.pid, self.node.files), self.progress.round):
                    self.say("growth", sentence)
            if self.signals.received and clock is None:
                clock, asked = ProcessClock(process.pid), time.monotonic()
                again = "; press Ctrl-C again to stop immediately" if self.signals.asked is signal.SIGINT else ""
                if again:
                    end_line()
                self.display.note(f"Stopping within {PROMISE_S} s{again}.")
                self.progress.stopping = True
                # Only the trainer: it still needs its verifiers to finish its work.
                process.terminate()
            if clock is not None:
                begun = self.progress.start is not None and not self.progress.calibrating
                late = clock.look() > GRACE_S if begun else time.monotonic() - asked > PROMISE_S
                if self.signals.impatient or late:
                    return True, None
            time.sleep(POLL_S)
        return False, None

    def _hung(self, process: subprocess.Popen[bytes], silence: SilenceWatch) -> str | None:
        """Have a trainer that hangs write its threads' stacks to its log, and return what shows that it hangs.

        A trainer that a signal has stopped is continued instead; then this returns None.
        """
        silent = duration(round(silence.silence))
        stopped = any(pid == process.pid for pid, _ in frozen(None, process.pid))
        if stopped:  # it would write its stacks while its threads run, which can crash it
            os.kill(process.pid, signal.SIGCONT)
            silence.silence = 0.0
            self.say("continued", f"the trainer was stopped by a signal and did nothing for {silent}; continuing it")
            return None
        os.kill(process.pid, signal.SIGUSR1)
        usual = "" if silence.usual is None else f", and a round usually takes {duration(float(silence.usual))}"
        time.sleep(_DUMP_S)
        return f"no sign of life for {silent}{usual}"
