"""Run ``swarmctl`` and its trainer without the imports, which are most of the work of a short run.

Both are forked from processes that have imported everything: ``swarmctl`` from the fork server, and the trainer from
``swarmctl``, like the process that uses a trained model (``hivemind_exp.trained``). The trainer's first API process and
its training processes are forks of it. Everything else is real: sessions, signals, the order on stdin, the log and the
workers. What libraries read from the environment while they are imported (``OMP_…``) is what the fork server had,
except the hub's client, which reads its variables again. Tests of that, of terminals and of encodings start
``swarmctl`` as users do (``command_line``), and so do a test of each way to end a run and the demo.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import psutil

from hivemind_exp.config import Config
from hivemind_exp.parallel import team
from hivemind_exp.runner import __main__ as runner
from hivemind_exp.trained import __main__ as trained
from swarmctl import cli
from swarmctl.run import command, dry_run, supervisor  # noqa: F401 - otherwise imported by each run
from swarmctl.run import trainer_process as trainer
from tests.support import fake_trainer, own_environment
from tests.support.command_line import ROOT
from tests.support.forked_children import Fork
from tests.support.forked_engines import forked_engine
from tests.support.forked_members import ForkedMember
from tests.support.patience import joined
from tests.support.restarts import processes
from tests.support.run_fake_trainer import TRAINER, use_stand_in
from tests.support.server_forks import ServerFork

MAINS = {trainer.MODULE: runner.main, TRAINER: fake_trainer.main}


def swarmctl(
    *arguments: str,
    stand_in: bool = False,
    timeout: float = 120,
    before: Callable[[], object] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and assert that it leaves no process.

    ``stand_in``: whether the trainer is the stand-in (``fake_trainer``). ``before``: as for ``ForkedSwarmctl``.
    ``environment``: more variables.
    """
    with tempfile.TemporaryDirectory() as place:
        process = ForkedSwarmctl(arguments, environment, Path(place), stand_in=stand_in, before=before)
        try:
            out, said = process.communicate(timeout)
        finally:
            process.kill()
        assert [left.cmdline() for left in process.left()] == []
        return subprocess.CompletedProcess(arguments, process.wait(), out, said)


@dataclass(frozen=True)
class Start:
    """How ``swarmctl`` is to start."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    output: Path
    errors: Path
    trainers: Path
    """A file that takes the ids of its trainers."""
    stand_in: bool
    pause_s: float
    directory: Path
    stdin: Path
    before: Callable[[], object] | None


class ForkedSwarmctl:
    """The part of ``Popen`` that tests use, for a ``swarmctl`` that is forked from the fork server."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        place: Path,
        *,
        output: str = "out",
        errors: str = "said",
        stand_in: bool = False,
        pause_s: float = 0.0,
        directory: Path = ROOT,
        stdin: Path = Path(os.devnull),
        before: Callable[[], object] | None = None,
    ) -> None:
        """Start it.

        ``output``, ``errors``: files in ``place`` to which it appends its output. ``pause_s``: the trainer waits so
        long each time it has scored, because the tiny model plays many rounds while its peers do something.
        ``directory``: where it runs. ``before``: what it does first; a function that can be pickled.
        """
        self._start = Start(
            tuple(arguments),
            os.environ | environment,
            place / output,
            place / errors,
            place / "trainers",
            stand_in,
            pause_s,
            directory,
            stdin,
            before,
        )
        process = processes().Process(target=_run, args=(self._start,))
        process.start()
        assert process.pid is not None
        self.pid, self._process = process.pid, process

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        if not joined(self._process, timeout):
            raise subprocess.TimeoutExpired("swarmctl", timeout or 0)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Unlike that of ``Popen``, this waits for the end."""
        self._process.kill()
        self._process.join()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        files = self._start.output, self._start.errors  # or devices
        out, said = (path.read_text(encoding="utf-8") if path.is_file() else "" for path in files)
        return out, said

    def left(self) -> list[psutil.Process]:
        """Return the running processes of its session and of its trainers'."""
        file = self._start.trainers
        trainers = file.read_text(encoding="utf-8").split() if file.exists() else []
        sessions = {self.pid, *map(int, trainers)}
        return [each for each in psutil.process_iter() if _session(each.pid) in sessions and _runs(each)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _run(start: Start) -> None:
    """Be ``swarmctl``."""
    os.setsid()
    os.chdir(start.directory)
    with start.output.open("ab") as out, start.errors.open("ab") as said:
        own_environment.become(start.environment, os.open(start.stdin, os.O_RDONLY), out.fileno(), said.fileno())
    sys.argv = [str(ROOT / "swarmctl" / "__main__.py"), *start.arguments]
    if start.stand_in:
        use_stand_in(start.arguments)
    if start.pause_s:
        _slow_down(start.pause_s)
    exec_module = trainer.spawn

    def spawn(module: str, config: Config, output: int | BinaryIO, *rest: Any, errors: Any = None) -> object:
        if module == trained.__package__ and not any(rest):  # without secrets
            return ForkedModelHere(trainer.environment(config), errors)
        if module not in MAINS:
            return exec_module(module, config, output, *rest, errors=errors)
        log = None if isinstance(output, int) else output
        forked = ForkedTrainer(partial(_with_forks, MAINS[module], config), trainer.environment(config), log)
        with start.trainers.open("a") as file:
            print(forked.pid, file=file)
        return forked

    trainer.spawn = spawn  # type: ignore[assignment]
    if start.before is not None:
        start.before()
    sys.exit(cli.run(list(start.arguments)))


def _with_forks(main: Callable[[], int | None], config: Config) -> int | None:
    """Be the trainer, whose first API process and whose training processes are forks."""
    team.spawn = ForkedMember  # type: ignore[assignment]
    with forked_engine(config):
        return main()


def _slow_down(pause_s: float) -> None:
    """Make the trainers of this process wait each time they have scored."""
    from hivemind_exp.tasks.mixture import Mixture

    score = Mixture.score

    def slow(self: Mixture, *scored: Any) -> Any:
        time.sleep(pause_s)
        return score(self, *scored)

    Mixture.score = slow  # type: ignore[method-assign]


class ForkedTrainer(Fork):
    """The part of ``Popen`` that ``swarmctl`` uses, for a trainer that is a fork of this process."""

    def __init__(
        self,
        main: Callable[[], int | None],
        environment: Mapping[str, str],
        log: BinaryIO | None,
        errors: BinaryIO | None = None,
    ) -> None:
        """``log``: takes its output; None: ``communicate`` returns it. ``errors``: takes what it writes to stderr."""
        self._outputs = [each or tempfile.TemporaryFile() for each in (log, errors or log)]  # noqa: SIM115
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(writing)
            _train(main, environment, reading, *(each.fileno() for each in self._outputs))
        os.close(reading)
        self.stdin = os.fdopen(writing, "wb")

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def communicate(self, line: bytes | None, timeout: float) -> tuple[bytes, ...]:
        if line is not None:
            self.stdin.write(line)
            self.stdin.close()
        self.wait(timeout)
        return tuple(os.pread(each.fileno(), 2**20, 0) for each in self._outputs)


class ForkedModelHere(ForkedTrainer):
    """The part of ``Popen`` that ``ModelProcess`` uses, for a ``hivemind_exp.trained`` forked like a trainer."""

    def __init__(self, environment: Mapping[str, str], errors: BinaryIO) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as output:
            super().__init__(trained.main, environment, output, errors)
        self.stdout = os.fdopen(reading, "rb")


class ForkedModel(ServerFork):
    """The part of ``Popen`` that ``ModelProcess`` uses, for a ``hivemind_exp.trained`` forked from the fork server."""

    def __init__(self, environment: Mapping[str, str], errors: IO[bytes]) -> None:
        # The path of a file without a name.
        super().__init__(_use_model, dict(environment), f"/proc/{os.getpid()}/fd/{errors.fileno()}")


def _use_model(stdin: int, stdout: int, environment: Mapping[str, str], errors: str) -> NoReturn:
    _train(trained.main, environment, stdin, stdout, os.open(errors, os.O_WRONLY))


def spawn_stand_in(
    module: str, config: Config, output: int | BinaryIO, *_rest: Any, errors: IO[bytes] | None = None
) -> ForkedTrainer:
    """Do as ``trainer_process.spawn`` does for the stand-in, in a fork of this process."""
    assert (module, errors) == (TRAINER, None)
    return ForkedTrainer(fake_trainer.main, trainer.environment(config), None if isinstance(output, int) else output)


def spawn_model(
    module: str, config: Config, _output: int, pass_fds: tuple[int, ...], *, errors: IO[bytes]
) -> ForkedModel:
    """Do as ``trainer_process.spawn`` does for ``ModelProcess`` without secrets."""
    assert (module, pass_fds) == (trained.__package__, ())
    return ForkedModel(trainer.environment(config), errors)


def _train(
    main: Callable[[], int | None], environment: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> NoReturn:
    """Be the trainer. Does not return."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        own_environment.become(environment, stdin, stdout, stderr)
        faulthandler.enable()
        status = main() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
