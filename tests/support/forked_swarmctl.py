"""Run ``swarmctl`` and its trainer without the imports, which are most of the work of a short run.

Both are forked from processes that have imported everything: ``swarmctl`` from the fork server, and the trainer from
``swarmctl``. Everything else is real: sessions, signals, the order on stdin, the log, the workers and the API process.
What libraries read from the environment while they are imported (``HF_…``, ``OMP_…``) is what the fork server had.
Tests of that, and of processes that others kill or freeze, start ``swarmctl`` as users do (``command_line``).
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import psutil

from hivemind_exp.config import Config
from hivemind_exp.runner import __main__ as runner
from swarmctl import cli
from swarmctl.run import command, dry_run, supervisor  # noqa: F401 - otherwise imported by each run
from swarmctl.run import trainer_process as trainer
from tests.support import fake_trainer
from tests.support.command_line import ROOT
from tests.support.restarts import processes
from tests.support.run_fake_trainer import TRAINER, use_stand_in

MAINS = {trainer.MODULE: runner.main, TRAINER: fake_trainer.main}


def swarmctl(
    *arguments: str, stand_in: bool = False, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and assert that it leaves no process.

    ``stand_in``: whether the trainer is the stand-in (``fake_trainer``). ``environment``: more variables.
    """
    with tempfile.TemporaryDirectory() as place:
        process = processes().Process(target=_run, args=(arguments, os.environ | environment, stand_in, Path(place)))
        process.start()
        process.join(timeout)
        stuck = process.exitcode is None
        process.kill()
        process.join()
        out, said, trainers = (_read(Path(place, name)) for name in ("out", "said", "trainers"))
    assert not stuck, said
    sessions = set(map(int, trainers.split()))
    assert [left.cmdline() for left in psutil.process_iter() if _session(left.pid) in sessions] == []
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, out, said)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _run(arguments: tuple[str, ...], environment: Mapping[str, str], stand_in: bool, place: Path) -> None:
    """Be ``swarmctl``. Its output goes to the files ``out`` and ``said``, its trainers' ids to ``trainers``."""
    os.chdir(ROOT)
    with (place / "out").open("wb") as out, (place / "said").open("wb") as said:
        _become(environment, os.open(os.devnull, os.O_RDONLY), out.fileno(), said.fileno())
    sys.argv = [str(ROOT / "swarmctl" / "__main__.py"), *arguments]
    if stand_in:
        use_stand_in()
    exec_module = trainer.spawn

    def spawn(module: str, config: Config, output: int | BinaryIO, *rest: Any, errors: Any = None) -> object:
        if module not in MAINS:
            return exec_module(module, config, output, *rest, errors=errors)
        log = None if isinstance(output, int) else output
        forked = ForkedTrainer(MAINS[module], trainer.environment(config), log)
        with (place / "trainers").open("a") as file:
            print(forked.pid, file=file)
        return forked

    trainer.spawn = spawn  # type: ignore[assignment]
    sys.exit(cli.run(list(arguments)))


def _become(environment: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> None:
    """Give this process another environment and other standard streams."""
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate((stdin, stdout, stderr)):
        os.dup2(stream, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


class ForkedTrainer:
    """The part of ``Popen`` that ``swarmctl`` uses, for a trainer that is a fork of this process."""

    def __init__(self, main: Callable[[], int | None], environment: Mapping[str, str], log: BinaryIO | None) -> None:
        """``log``: takes its output; None: ``communicate`` returns it."""
        self.returncode: int | None = None
        self._outputs = [tempfile.TemporaryFile() if log is None else log for _ in range(2)]  # noqa: SIM115
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(writing)
            _train(main, environment, reading, *(each.fileno() for each in self._outputs))
        os.close(reading)
        self.stdin = os.fdopen(writing, "wb")

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        until = time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("the trainer", timeout)
            time.sleep(0.01)
        return ended

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def communicate(self, line: bytes | None, timeout: float) -> tuple[bytes, ...]:
        if line is not None:
            self.stdin.write(line)
            self.stdin.close()
        self.wait(timeout)
        return tuple(os.pread(each.fileno(), 2**20, 0) for each in self._outputs)


def _train(
    main: Callable[[], int | None], environment: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> NoReturn:
    """Be the trainer. Does not return."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _become(environment, stdin, stdout, stderr)
        faulthandler.enable()
        status = main() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
