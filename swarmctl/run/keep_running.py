"""Restart a node's trainer after a temporary failure: with pauses, smaller batches, or once the disk has room.

A restart runs the same configuration with the same keys. The cap and what the user agreed to pay stay the same, so
no recovery starts spending. Requests that were in flight count as spent.
"""

import shlex
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from hivemind_exp.config import Config
from hivemind_exp.errors import DiskFull, GaveUp, NodeError, OutOfMemory
from swarmctl.errors import Exit, exit_code
from swarmctl.nodes.history import rounds_finished
from swarmctl.paths import shown
from swarmctl.run.outcome import batches, failure, planned_exit, record_stop, smaller
from swarmctl.run.supervisor import POLL_S, Supervisor, TrainerExit
from swarmctl.settings.schema import SettingPath, dotted
from swarmctl.supervision import disk
from swarmctl.supervision.restarts import Restarts
from swarmctl.terminal.sentences import duration, several, size

_POLLS_PER_LOOK = 20
SHRINKS = 3
"""How often the batches are halved, to an eighth: smaller ones hardly need less memory."""
_Batches = dict[SettingPath, int]


class KeepRunning:
    """Runs a node's trainer until it ends as planned, must not be restarted, or fails too often."""

    def __init__(
        self,
        supervisor: Supervisor,
        config: Config,
        *,
        patient: bool,
        settle: Callable[[Callable[[], bool]], Iterable[str]] = lambda _stopped: (),
    ) -> None:
        """Set what is run.

        ``patient``: whether a trainer that fails before its node has ever started is restarted, too. ``settle``: called
        before a restart, with what says that a stop was requested; returns warnings to log and show.
        """
        self._supervisor, self._config, self._settle = supervisor, config, settle
        self._patient = patient
        self._restarts = Restarts(config.supervision.max_restarts)
        self._shrinks = 0

    def run(self) -> tuple[TrainerExit, NodeError | None]:
        """Return how the last trainer ended, and the error to report if restarts did not help."""
        supervisor, progress = self._supervisor, self._supervisor.progress
        while True:
            before = rounds_finished(supervisor.node.files) or 0
            ending = supervisor.run(self._config)
            if planned_exit(ending, progress) is not None:
                return ending, None
            error = failure(ending, progress, supervisor.node.files, self._config)
            self._patient = self._patient or progress.start is not None
            final = exit_code(error) is not Exit.FAILED or bool(supervisor.signals.received)
            if final or not self._patient or not supervisor.node.files.root.is_dir():
                return ending, None
            new = (rounds_finished(supervisor.node.files) or 0) - before
            if (gave_up := self._recover(error, ending, new)) is not None:
                return ending, gave_up
            for sentence in self._settle(lambda: bool(supervisor.signals.received)):
                supervisor.say("own_server", sentence)
            if supervisor.signals.received:
                self._stopped()
                return replace(ending, returncode=0, asked=supervisor.signals.asked), None
            supervisor.restarts += 1

    def _recover(self, error: NodeError, ending: TrainerExit, new_rounds: int) -> NodeError | None:
        """Do what helps against a failure, and wait. Returns the error to end with if nothing does."""
        if isinstance(error, DiskFull) and self._wait_for_room(error):
            return None
        pause = self._restarts.ended(lasted_s=ending.lasted_s, rounds=new_rounds)
        if pause is None:
            return _gave_up(error, self._restarts.row)
        change: str | None = ""
        killed = ending.returncode == -signal.SIGKILL
        if isinstance(error, OutOfMemory) and (change := self._with_less_memory(killed=killed)) is None:
            return self._too_large(ending) if killed else _gave_up(error, self._shrinks - 1)
        in_time = f"in {duration(round(pause))}"
        where = f"{self._restarts.row} of {self._restarts.most} in a row"
        self._supervisor.say("restart", f"{error.message}. Restarting {in_time}{change} ({where})")
        self._wait("backing off", error.message, lambda: False, pause)
        return None

    @property
    def _has_started(self) -> bool:
        """Whether the last trainer had loaded its model. Before, smaller batches need no less memory."""
        return self._supervisor.progress.start is not None

    def _with_less_memory(self, *, killed: bool) -> str | None:
        """Halve the batches from now on. Returns words that say so, or None if a restart would fail again.

        ``killed``: by the kernel. On a GPU, batches do not fill the machine's memory. A trainer that reports that
        memory ran out has tried smaller batches itself, so it is started again as it was: another program may have used
        the memory.
        """
        first = self._restarts.row == 1
        self._shrinks = 1 if first else self._shrinks + 1
        if self._shrinks > SHRINKS:
            return None
        fewer = {path: value for path, value in smaller(self._config).items() if type(value) is int}
        device = str((self._supervisor.progress.start or {}).get("device", ""))
        if not self._has_started or not killed or device.startswith(("cuda", "xpu")):
            return ""
        if not fewer:
            return "" if first else None
        tables = {table: getattr(self._config, table) for table, _ in fewer}
        for (table, key), value in fewer.items():
            tables[table] = tables[table].model_copy(update={key: value})
        self._config = self._config.model_copy(update=tables)
        return f" with {_listed(fewer)}"

    def _too_large(self, ending: TrainerExit) -> NodeError:
        """Return the error of a node that needs too much memory even with the smallest batches."""
        config = self._config
        used = f" ({ending.memory} in use)" if ending.memory else ""
        if not self._has_started:
            return GaveUp(
                f"memory ran out {self._shrinks} times before the model was loaded{used}, so the node is not "
                "restarted again. Free memory, or use a smaller model in a new node",
                next=shlex.join(["swarmctl", "doctor", "--node", config.node.name]),
            )
        sizes: _Batches = batches(config)
        if config.model.gradient_checkpointing:
            half = max(1, config.generation.max_completion_tokens // 2)
            setting = f"generation.max_completion_tokens={half}"
        else:
            setting = "model.gradient_checkpointing=true"
        return GaveUp(
            f"memory ran out again, even with {_listed(sizes)}{used}, so the node is not restarted again. Next, try "
            f"{setting.replace('=', ' = ')}, or a smaller model in a new node",
            next=shlex.join(["swarmctl", "run", "--node", config.node.name, *_assigned(sizes), "--set", setting]),
        )

    def _wait_for_room(self, error: NodeError) -> bool:
        """Wait until a full disk has room; return False at once if it has."""
        files = self._supervisor.node.files
        room = disk.needed(files)
        if disk.has_room(files.root, room):
            return False
        free = disk.room_at(files.root)
        there = f"{room.lacks(free) or size(free.bytes) + ' free'} on the disk of {shown(files.root)}"
        told = f"paused: {error.message} ({there}). Continues when {room.wanted(free)} are free"
        self._supervisor.say("paused", told)
        self._wait("paused", told.removeprefix("paused: "), lambda: disk.has_room(files.root, room))
        if not self._supervisor.signals.received:
            self._supervisor.say("resumed", "The disk has room again, continuing", warns=False)
        return True

    def _wait(self, state: str, detail: str, over: Callable[[], bool], pause: float | None = None) -> None:
        """Wait until ``over()``, for ``pause`` seconds if given, or until a stop is requested."""
        supervisor, polls = self._supervisor, 0
        end = None if pause is None else time.monotonic() + pause
        supervisor.describe(state, detail, until=None if pause is None else time.time() + pause)
        doing = "paused, because the disk is full" if pause is None else f"backing off for {duration(round(pause))}"
        supervisor.progress.apply({"event": "phase", "name": doing})
        while not supervisor.signals.received and (end is None or time.monotonic() < end):
            if polls % _POLLS_PER_LOOK == 0 and over():
                break
            if polls % _POLLS_PER_LOOK == 0:
                supervisor.look_at_the_clock()
            supervisor.show()
            polls += 1
            time.sleep(POLL_S)
        supervisor.describe(None)

    def _stopped(self) -> None:
        """Record that the node was stopped while no trainer ran."""
        record_stop(self._supervisor.node.files, self._supervisor.progress)


def _gave_up(error: NodeError, times: int) -> NodeError:
    if not times:
        return error
    return GaveUp(
        f"the trainer failed again after {several(times, 'restart')} in a row, so it is not restarted again: "
        f"{error.message}",
        next=error.next,
    )


def _listed(batches: _Batches) -> str:
    return " and ".join(f"{dotted(path)} = {value}" for path, value in batches.items())


def _assigned(batches: _Batches) -> list[str]:
    """Return batches as options."""
    return [word for path, value in batches.items() for word in ("--set", f"{dotted(path)}={value}")]
