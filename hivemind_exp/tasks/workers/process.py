"""The node's side of one worker process: its pipes, its environment, and whether it is stuck."""

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.errors import WorkerFailed
from hivemind_exp.foreign_text import foreign
from hivemind_exp.processes.ending import how_ended
from hivemind_exp.processes.messages import Decoder, WireError, encode, search_path
from hivemind_exp.processes.progress import ProgressWatch
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import TaskSpec, needs_hub

LOOK_SECONDS = 1.0
"""Least time between two looks at a worker that owes a reply."""
FEW_LOOKS, MANY_LOOKS = 3, 600
"""A worker is stuck if it has used no CPU time at this many looks in a row: few if it was stopped or asleep with a job
each time, many otherwise, because it may be waiting for a busy machine or a slow download."""
_OVERDUE = 2.0
"""A worker is ended from outside if one job has used this many times its CPU time: the worker's own timer, which is
exact, can be switched off by the code that runs in it."""
_CHUNK = 2**16

_KEPT = ("LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_KEPT_FOR_HUB = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")
_KEPT_FOR_PROXY = tuple(
    name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())
)
_KEPT_FOR_TLS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_SET = {
    "PYTHONHASHSEED": "0",  # some generators iterate over sets
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For our own interpreter. In a task's own virtual environment, the first workers store the compiled libraries, and the
next ones start in half the time."""


class WorkerProcess:
    """The node's side of one worker process, with a non-blocking pipe in each direction."""

    def __init__(
        self,
        role: Role,
        specs: Sequence[TaskSpec],
        limit: float,
        load: float,
        python: str | None = None,
        *,
        place: int = 0,
    ) -> None:
        """``limit``, ``load``: CPU time for one job and to load, in seconds. ``python``: another interpreter.

        ``place``: its number among the workers of its group, which a replacement takes over.
        """
        self.place = place
        self.ready: list[dict[str, Any]] | None = None
        self.still_open: list[str] = []
        """What the kernel does not enforce for the worker."""
        self.pending: deque[int] = deque()
        """Jobs that were sent and have no reply yet."""
        self._limits: dict[int, float] = {}
        """Their CPU time limits, in seconds."""
        self._still = self._idle = self._gone = 0
        """Number of looks in a row at which the worker had used no CPU time; at which it also waited for nothing that a
        busy machine explains; and at which it had ended, but its output was still open."""
        self._looked = -math.inf
        self._limit = limit
        self._replies = self._replies_seen = 0
        """Messages that have arrived, now and at the last look."""
        self._used_before = 0.0
        """CPU time at the first look after the last reply."""
        self._overdue = False
        self.made_no_progress = False
        """Whether it waited for something outside until it was ended."""
        self._own_python = python is not None
        self.was_stopped = False
        """Whether it was stopped by a signal at the last look. No job can do that: the sandbox refuses it."""
        self._decoder = Decoder()
        self._outgoing = bytearray()
        # A file, not a pipe: a worker that writes a lot while it starts must not block until someone reads.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*_command(python), role, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(role, specs) | ({} if python else search_path() | _COMPILED),
            cwd="/",
        )
        self._watch = ProgressWatch(self._process.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.input, self.output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        self.send({"tasks": [asdict(spec) for spec in specs], "limit": limit, "load": load})

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    @property
    def owes(self) -> bool:
        """Whether a message from the worker is expected."""
        return self.ready is None or bool(self.pending)

    @property
    def seconds(self) -> float:
        """The CPU time that the process has used; 0 if it has ended."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def is_stuck(self) -> bool:
        """Look at the worker. Return whether it made no progress for too many looks in a row, or is far over its time.

        CPU time and the process's state decide, not the clock: on a busy machine, a worker may have to wait its turn.
        This is asked after each reply of another worker, but a look needs time: CPU time is counted in steps of 10 ms,
        and a worker that has just got a job still seems asleep.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        if self._is_overdue():
            return True
        state = self._watch.look()
        self.was_stopped = state == "stopped"
        self._still = 0 if state in ("running", "ended") else self._still + 1
        idle = state == "stopped" or (state == "asleep" and self.ready is not None)
        self._idle = self._idle + 1 if idle else 0
        # Its pipe reports the end, unless a process that an environment started while it loaded still holds the pipe.
        self._gone = self._gone + 1 if state == "ended" else 0
        self.made_no_progress = self._still >= MANY_LOOKS
        return self.made_no_progress or max(self._idle, self._gone) >= FEW_LOOKS

    def _is_overdue(self) -> bool:
        """Whether the job at the head has used far more CPU time than its limit."""
        used = self.seconds
        if self.ready is None or not self.pending or self._replies != self._replies_seen:
            self._replies_seen, self._used_before = self._replies, used
        limit = self._limits[self.pending[0]] if self.pending else math.inf
        self._overdue = used - self._used_before > _OVERDUE * limit
        return self._overdue

    def send(self, message: object, job: int | None = None, turns: int = 1) -> None:
        """Queue a message. ``job`` is the number of the job whose reply is expected.

        ``turns``: of its conversation; a worker that takes over a conversation plays them all.
        """
        self._outgoing += encode(message)
        if job is not None:
            self.pending.append(job)
            self._limits[job] = self._limit * turns
        self.write()

    def write(self) -> None:
        """Write as much as the pipe accepts now. A broken pipe is noticed when the worker's output is read."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._outgoing:
                del self._outgoing[: os.write(self.input, self._outgoing[:_CHUNK])]

    def read(self) -> list[Any] | None:
        """Return the messages that have arrived, or None once no more will arrive."""
        messages: list[Any] = []
        while not self._decoder.broken:
            try:
                data = os.read(self.output, _CHUNK)
                if not data:
                    break
                for message in self._decoder.feed(data):
                    messages.append(message)
                    self._replies += 1
                self._still = self._idle = self._gone = 0
            except BlockingIOError:
                return messages
            except WireError:
                break
        return messages or None  # if there were messages, the next read reports the end

    def kill(self) -> None:
        """Kill the process, reap it and close its files."""
        self.end()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def end(self) -> int:
        """Kill the process if it still runs, reap it and return its exit code. Its output can still be read.

        Also kills the processes that an environment started in it before the sandbox closed.
        """
        if self._own_python and self._process.returncode is None:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(self._process.pid).children(recursive=True):
                    child.kill()
        self._process.kill()
        return self._process.wait()

    @property
    def used_its_time(self) -> bool:
        """Whether the worker ended because one job exceeded the CPU time limit. Only for a worker that has ended."""
        return self._overdue or self._process.returncode == -signal.SIGPROF

    def failure(self) -> WorkerFailed:
        """Return an error for a process that ended before it was ready, with the last lines it wrote."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = foreign(" | ".join(line.strip() for line in lines[-3:]) or "no output")
        if self.made_no_progress:
            return WorkerFailed(
                f"a task worker was still waiting for something outside, such as a download, after {MANY_LOOKS} looks "
                f"without progress: {said}",
                next="swarmctl tasks list",
            )
        return WorkerFailed(
            f"a task worker {how_ended(self._process.poll())} before it was ready: {said}",
            next=f"{shlex.quote(sys.executable)} -c 'import hivemind_exp.tasks.workers.worker, msgpack'",
        )


def _command(python: str | None) -> list[str]:
    """Return the command that starts a worker. Another interpreter gets only this package from here."""
    if python is None:
        return [sys.executable, "-P", "-m", "hivemind_exp.tasks.workers.worker"]
    return [python, "-P", "-s", str(Path(__file__).resolve().with_name("venv_worker.py"))]


def _environment(role: Role, specs: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the few variables that a worker needs. The node's full environment may contain keys."""
    kept = list(_KEPT)
    if any(needs_hub(spec, role) for spec in specs):
        kept += [*_KEPT_FOR_HUB, *_KEPT_FOR_PROXY, *_KEPT_FOR_TLS]
    return {name: os.environ[name] for name in kept if name in os.environ} | _SET
