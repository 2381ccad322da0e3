"""A task whose verifier executes its answer: the worst that hostile text could do.

A worker loads it like any other task: through an entry in ``registry.FAMILIES``, which the tests add.
"""

# ruff: noqa: ARG002, ARG005, PLW0108 - all actions have the same signature, and so does the task's interface
from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import MOST_TERMS, Task, TaskSpec, Verdict

MODULE = __name__


def build(spec: TaskSpec) -> EvilTask:
    return EvilTask(spec)


def check(spec: TaskSpec) -> None:
    """Accept every spec."""


class Reduced:
    def __reduce__(self) -> Any:
        return os.getcwd, ()


DEEDS: Mapping[str, Callable[[str], object]] = {
    "socket": lambda place: socket.create_connection(("127.0.0.1", int(place)), 1),
    "write": lambda place: Path(place).write_text("evil"),
    "append": lambda place: os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    "mkdir": lambda place: os.mkdir(place),
    "remove": lambda place: os.remove(place),
    "read": lambda place: Path(place).read_text(),
    "list": lambda place: os.listdir(place),
    "system": lambda place: os.system(f"touch {place}") == 0 or 1 / 0,
    "popen": lambda place: subprocess.run(["touch", place], check=True),
    "fork": lambda place: os.fork(),
    "exec": lambda place: os.execv("/bin/true", ["true"]),
    "spawn": lambda place: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "kill": lambda place: os.kill(os.getppid(), signal.SIGTERM),
    "secret": lambda place: os.environ[place],
    "parent's secrets": lambda place: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "memory": lambda place: len(bytearray(4 * 2**30)),
    "unpickle": lambda place: pickle.loads(pickle.dumps(Reduced())),
    "ctypes": lambda place: __import__("ctypes").CDLL(None).system(b"touch " + place.encode()),
    "torch": lambda place: sys.modules["torch"],
    "recurse": lambda place: DEEDS["recurse"](place),
    "exit": lambda place: os._exit(0),
    "crash": lambda place: os.abort(),
    "sleep": lambda place: time.sleep(3600),
    "busy": lambda place: sum(iter(int, 1)),
    "busy without a timer": lambda place: (signal.signal(signal.SIGPROF, signal.SIG_IGN), sum(iter(int, 1))),
    "nothing": lambda place: place,
}


_LINES = "fine\nerror: forged\n  try: \x1b[2J"
FORGED: Mapping[str, Verdict] = {
    "lines": Verdict(1.0, ((_LINES, 1.0),), _LINES * 10_000),
    "huge": Verdict(1.0, (("a", 1e308), ("b", math.inf), ("c", math.nan), ("d", 1.0))),
    "many": Verdict(1.0, tuple((str(number), 1.0) for number in range(MOST_TERMS + 1))),
}
"""Verdicts that no task's own code can get past its checks, but a process that has been taken over could send."""


class EvilTask(Task):
    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec

    def prepare(self, role: Role) -> None:
        if "raises" in self._spec.params:
            raise ImportError("a library is broken")
        if "exits" in self._spec.params:
            print("so it ends", file=sys.stderr)
            os._exit(7)

    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        if "junk" in self._spec.params:
            raise ValueError("no such puzzle")
        space = self._spec.params.get("space", 2**63)
        assert isinstance(space, int)
        return f"question {seed % space}", {"answer": "nothing"}

    def score(self, answer: str, entry: Mapping[str, Any]) -> float | Verdict:
        """Give full credit if the action succeeded."""
        deed, _, place = answer.partition(" at ")
        if deed in FORGED:
            return FORGED[deed]
        if deed in ("nan", "inf", "-1", "7"):
            return float(deed)
        DEEDS[deed](place)
        return 1.0

    def key(self, text: str, entry: Mapping[str, Any]) -> str:
        return text
