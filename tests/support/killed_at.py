"""Kill a process (SIGKILL) just before its n-th change of files, for each n, to see that nothing is left half done."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "sqlite3.connect")


def arm(moment: int) -> None:
    """Kill this process before its change number ``moment``, counted from 0."""
    changes = itertools.count()

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and next(changes) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def _run(action: Callable[..., object], arguments: tuple[object, ...], moment: int) -> None:
    arm(moment)
    action(*arguments)


def killed_everywhere(action: Callable[..., object], *arguments: object, step: int = 1) -> Iterator[int]:
    """Run ``action(*arguments)`` in forked processes, each killed ``step`` changes later, and yield after each of them.

    Ends after the first that was not killed; it must have succeeded.
    """
    for moment in itertools.count(0, step):
        process = get_context("fork").Process(target=_run, args=(action, arguments, moment))
        process.start()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            yield moment
            continue
        assert process.exitcode == 0
        assert moment > 0, "the action changed nothing"
        return
