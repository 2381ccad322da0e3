"""The node's worker processes: one generates questions, and separate ones verify answers.

Jobs are pipelined, so a hundred short answers cost one exchange. Replies arrive one by one, so the time limit applies
to each answer. A worker that exceeds the limit is killed, and only that answer is lost.

Measured on two cores: a worker is ready after 0.1 s and takes 20 to 30 MiB. A verifier with math-verify is ready after
2.2 s and takes 65 MiB. Verifying 128 short answers takes 1 to 2 ms. Generating 10 000 ``spell_backward`` questions
takes 0.5 s.
"""

import contextlib
import importlib
import math
import os
import selectors
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hivemind_exp.errors import HubUnreachable, TaskError
from hivemind_exp.processes.messages import Decoder, WireError, encode, search_path
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import TaskSpec

VERIFY_SECONDS = 2.0
"""Wall-clock time limit for one answer."""
MAKE_SECONDS = 60.0
"""Wall-clock time limit for one question. It is long because some generators search for a puzzle."""
WINDOW = 32
"""Maximum number of jobs that a worker holds at a time."""
MOST_VERIFIERS = 4

TIMED_OUT = "timed out"
DIED = "the worker crashed"
START_SECONDS = 120.0
"""Time limit for a worker to become ready. Even from a slow disk, the libraries load in ten seconds."""
_CHUNK = 2**16

_KEPT = ("LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_KEPT_FOR_HUB = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")
_KEPT_FOR_PROXY = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_SET = {
    "PYTHONHASHSEED": "0",  # some generators iterate over sets
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


class Unscored(str):
    """The reason why a job has no reply."""

    __slots__ = ()


class WorkerProcess:
    """The node's side of one worker process, with a non-blocking pipe in each direction."""

    def __init__(self, role: Role, specs: Sequence[TaskSpec], limit: float) -> None:
        self.ready: list[dict[str, Any]] | None = None
        self.pending: deque[int] = deque()
        """Jobs that were sent and are not answered yet."""
        self.since = time.monotonic()
        """When the worker started or last made progress."""
        self._limit = limit
        self._decoder = Decoder()
        self._outgoing = bytearray()
        # A file, not a pipe: a worker that writes a lot while it starts must not block until someone reads.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hivemind_exp.tasks.workers.worker", role, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(role, specs),
            cwd="/",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.input, self.output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        self.send({"tasks": [asdict(spec) for spec in specs], "limit": limit})

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    @property
    def due(self) -> float:
        """Deadline for the worker's next progress (monotonic seconds)."""
        if self.ready is None:
            return self.since + START_SECONDS
        return self.since + self._limit if self.pending else math.inf

    def send(self, message: object, job: int | None = None) -> None:
        """Queue a message. ``job`` is the number of the job whose reply is expected."""
        self._outgoing += encode(message)
        if job is not None:
            if not self.pending:
                self.since = time.monotonic()
            self.pending.append(job)
        self.write()

    def write(self) -> None:
        """Write as much as the pipe accepts now. A broken pipe is noticed when the worker's output is read."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._outgoing:
                del self._outgoing[: os.write(self.input, self._outgoing[:_CHUNK])]

    def read(self) -> list[Any] | None:
        """Return the messages that have arrived, or None once no more will arrive."""
        messages: list[Any] = []
        while True:
            try:
                data = os.read(self.output, _CHUNK)
                if not data:
                    break
                messages += self._decoder.feed(data)
            except BlockingIOError:
                return messages
            except WireError:
                break
        return messages or None  # if there were messages, the next read reports the end

    def kill(self) -> None:
        """Kill the process and reap it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def failure(self) -> TaskError:
        """Return an error for a process that never became ready, with the last lines it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = " | ".join(line.strip() for line in lines[-3:]) or "no output"
        return TaskError(
            f"a task worker exited before it was ready (exit code {self._process.poll()}): {said}",
            next=f"{shlex.quote(sys.executable)} -c 'import hivemind_exp.tasks.workers.worker, msgpack'",
        )


def _environment(role: Role, specs: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the few variables that a worker needs. The node's full environment may contain keys."""
    kept = list(_KEPT)
    if role == "make" and any(spec.path is None and _needs_hub(spec) for spec in specs):
        kept += [*_KEPT_FOR_HUB, *_KEPT_FOR_PROXY]
    return {name: os.environ[name] for name in kept if name in os.environ} | _SET | search_path()


def _needs_hub(spec: TaskSpec) -> bool:
    try:
        return getattr(importlib.import_module(spec.module), "NEEDS_HUB", False)
    except ImportError:  # the worker reports it in more detail
        return False


class Crew:
    """Workers of one role. Workers that end are replaced."""

    def __init__(self, role: Role, specs: Sequence[TaskSpec], size: int, limit: float) -> None:
        self._role = role
        self._specs = list(specs)
        self._limit = limit
        self._size = size
        self._workers: list[WorkerProcess] = []

    def start(self) -> None:
        """Start the missing workers without waiting for them."""
        while len(self._workers) < self._size:
            self._workers.append(WorkerProcess(self._role, self._specs, self._limit))

    def facts(self) -> list[dict[str, Any]]:
        """Wait until one worker is ready, and return the facts that it reported about each task.

        Raises:
            TaskError: the worker could not start.
        """
        while True:
            self.start()
            for worker in self._workers:
                if worker.ready is not None:
                    return worker.ready
            self._step([], deque(), [])

    def run(self, jobs: Sequence[object]) -> list[Any]:
        """Run all jobs. Return the replies in order, with an ``Unscored`` for each job without a reply.

        Raises:
            TaskError: a worker could not start.
        """
        replies: list[Any] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        try:
            while waiting or any(worker.pending for worker in self._workers):
                self.start()
                self._step(jobs, waiting, replies)
        finally:
            for worker in [worker for worker in self._workers if worker.pending]:
                self._drop(worker)  # interrupted: late replies would be assigned to the wrong jobs
        return replies

    def close(self) -> None:
        """Stop every worker."""
        for worker in list(self._workers):
            self._drop(worker)

    def _step(self, jobs: Sequence[object], waiting: deque[int], replies: list[Any]) -> None:
        """Hand out jobs, wait for activity, collect replies and kill workers that are late."""
        self._hand_out(jobs, waiting)
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
                if worker.wants_to_write:
                    selector.register(worker.input, selectors.EVENT_WRITE, worker)
            first = min((worker.due for worker in self._workers), default=math.inf)
            happened = selector.select(None if first == math.inf else max(0.0, first - time.monotonic()))
        for key, _ in happened:
            if key.data not in self._workers:
                continue  # it has just been killed
            if key.fd == key.data.input:
                key.data.write()
            else:
                self._take(key.data, waiting, replies)
        self._end_late(waiting, replies)

    def _hand_out(self, jobs: Sequence[object], waiting: deque[int]) -> None:
        ready = [worker for worker in self._workers if worker.ready is not None]
        if not ready:
            return
        share = min(WINDOW, math.ceil((len(waiting) + sum(len(worker.pending) for worker in ready)) / len(ready)))
        for worker in ready:
            while waiting and len(worker.pending) < share:
                job = waiting.popleft()
                worker.send(jobs[job], job)

    def _take(self, worker: WorkerProcess, waiting: deque[int], replies: list[Any]) -> None:
        messages = worker.read()
        if messages is None:
            if worker.ready is None:
                error = worker.failure()
                self.close()
                raise error from None
            self._lose(worker, DIED, waiting, replies)
            return
        for message in messages:
            worker.since = time.monotonic()
            if worker.ready is not None:
                if worker.pending:
                    replies[worker.pending.popleft()] = message
            elif "error" in message:
                self.close()
                kind = HubUnreachable if message["code"] == HubUnreachable.code else TaskError
                raise kind(message["error"], next=message["next"])
            else:
                worker.ready = message["ready"]

    def _end_late(self, waiting: deque[int], replies: list[Any]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if now < worker.due:
                continue
            if worker.ready is None:
                self.close()
                raise TaskError(f"a task worker was not ready after {START_SECONDS:.0f} s")
            self._lose(worker, TIMED_OUT, waiting, replies)

    def _lose(self, worker: WorkerProcess, why: str, waiting: deque[int], replies: list[Any]) -> None:
        """Kill a worker. Its current job is lost; its queued jobs go to another worker."""
        if worker.pending:
            replies[worker.pending.popleft()] = Unscored(why)
            waiting.extendleft(reversed(worker.pending))
        self._drop(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.kill()


class Pool:
    """A mixture's workers: one that generates questions, and the verifiers."""

    def __init__(self, specs: Sequence[TaskSpec], verifiers: int | None = None) -> None:
        if verifiers is None:
            verifiers = min(MOST_VERIFIERS, max(1, (os.cpu_count() or 1) // 2))
        self._specs = list(specs)
        self._maker = Crew("make", specs, 1, MAKE_SECONDS)
        self._verifiers = Crew("verify", specs, verifiers, VERIFY_SECONDS)

    def start(self) -> None:
        """Start the workers and return at once. They load while the caller imports its libraries."""
        self._maker.start()
        self._verifiers.start()

    def facts(self) -> list[dict[str, Any]]:
        """Wait for a worker, then return each task's size, held-out size, hash and library."""
        return self._maker.facts()

    def make(self, places: Sequence[tuple[int, int]]) -> list[tuple[str, dict[str, Any], str]]:
        """Return the text, entry and key for each (task, seed).

        Raises:
            TaskError: a generator failed.
        """
        replies = self._maker.run([list(place) for place in places])
        for (task, _), reply in zip(places, replies, strict=True):
            if isinstance(reply, list):
                continue
            why = str(reply) if isinstance(reply, Unscored) else reply["error"]
            raise TaskError(f"task {self._specs[task].label!r} cannot generate a question: {why}")
        return [(text, entry, key) for text, entry, key in replies]

    def verify(self, jobs: Sequence[tuple[int, str, Any]]) -> list[float | Unscored]:
        """Return the credit for each (task, answer, entry). An ``Unscored`` counts as no credit."""
        replies = self._verifiers.run([list(job) for job in jobs])
        credits = [min(max(reply, 0.0), 1.0) if isinstance(reply, float) else reply for reply in replies]
        return [credit if isinstance(credit, float | Unscored) else Unscored(DIED) for credit in credits]

    def close(self) -> None:
        """Stop all workers immediately."""
        self._maker.close()
        self._verifiers.close()
