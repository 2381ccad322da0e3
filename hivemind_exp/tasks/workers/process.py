"""One worker process as its node sees it: a pipe each way, never waited for."""

import contextlib
import importlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hivemind_exp.errors import TaskError
from hivemind_exp.processes.messages import Decoder, WireError, encode, search_path
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import TaskSpec

START_SECONDS = 120.0
"""A worker that is not ready by then never will be: even a slow disk loads the libraries in ten."""
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


class WorkerGone(Exception):
    """The process ended, or no longer speaks the protocol."""


class WorkerProcess:
    """A worker, from its start to its end. ``pending`` holds the jobs it was sent and has not answered."""

    def __init__(self, role: Role, specs: Sequence[TaskSpec], limit: float) -> None:
        self.ready: list[dict[str, Any]] | None = None
        self.pending: deque[int] = deque()
        self.since = time.monotonic()
        """When it started, or made its last progress."""
        self._decoder = Decoder()
        self._outgoing = bytearray()
        # A file, not a pipe: a worker that fills it while it starts does not wait for anybody to read.
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

    def send(self, message: object, job: int | None = None) -> None:
        """Queue a message; ``job`` is the number under which its reply is expected."""
        self._outgoing += encode(message)
        if job is not None:
            if not self.pending:
                self.since = time.monotonic()
            self.pending.append(job)
        self.write()

    def write(self) -> None:
        """Write what the pipe takes now. A broken pipe shows when its output is read."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._outgoing:
                del self._outgoing[: os.write(self.input, self._outgoing[:_CHUNK])]

    def read(self) -> list[Any]:
        """Return the messages that have arrived.

        Raises:
            WorkerGone: when nothing more will.
        """
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
        if messages:  # the end shows again at the next reading
            return messages
        raise WorkerGone

    def kill(self) -> None:
        """End the process at once and reap it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def failure(self) -> TaskError:
        """Return why the process never became ready, with the last it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = " | ".join(line.strip() for line in lines[-3:]) or "it said nothing"
        return TaskError(
            f"a worker for questions and answers ended before it was ready (code {self._process.poll()}): {said}",
            next=f"{shlex.quote(sys.executable)} -c 'import hivemind_exp.tasks.workers.worker, msgpack'",
        )


def _environment(role: Role, specs: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the little that a worker needs. The node's own environment holds keys."""
    kept = list(_KEPT)
    if role == "make" and any(spec.path is None and _needs_hub(spec) for spec in specs):
        kept += [*_KEPT_FOR_HUB, *_KEPT_FOR_PROXY]
    return {name: os.environ[name] for name in kept if name in os.environ} | _SET | search_path()


def _needs_hub(spec: TaskSpec) -> bool:
    try:
        return getattr(importlib.import_module(spec.module), "NEEDS_HUB", False)
    except ImportError:  # which the worker tells better
        return False
