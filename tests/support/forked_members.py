"""Start the other training processes of a node (``hivemind_exp.parallel.team``) without their imports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from typing import NoReturn

from hivemind_exp.runner import member
from tests.support.own_environment import become


class ForkedMember:
    """The part of ``Popen`` that ``Team`` uses, for a training process that is a fork of this one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        theirs, stdin = os.pipe()
        stdout, output = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _serve(environment, theirs, output, parent)
        os.close(theirs)
        os.close(output)
        self.stdin, self.stdout = os.fdopen(stdin, "wb", buffering=0), os.fdopen(stdout, "rb", buffering=0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a training process", timeout or 0)
            time.sleep(0.01)
        return ended

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _serve(environment: Mapping[str, str], stdin: int, stdout: int, parent: int) -> NoReturn:
    """Be the process. Does not return."""
    status = 1
    try:
        become(environment, stdin, stdout, 2)
        _let_go()
        status = member.main(parent)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _let_go() -> None:
    """Keep no file, lock or pipe of the other process open. Its objects may still close their descriptors later."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the one that listed them
            if number > 2:
                os.dup2(nothing, number, inheritable=False)
