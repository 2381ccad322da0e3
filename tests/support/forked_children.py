"""The part of ``Popen`` that a node uses for its other processes, for one that is a fork of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgpack

from tests.support.own_environment import become
from tests.support.patience import Patience

_ARGUMENTS = slice(45, 47)
"""Where /proc/PID/stat says between which addresses the command line is; counted from the process's state."""


class Fork:
    """A fork of this process that can be waited for."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        patience = None if timeout is None else Patience(timeout)
        while (ended := self.poll()) is None:
            if patience is not None and patience.is_over():
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            time.sleep(0.01)
        return ended


class ForkedChild(Fork):
    """A process that waits for ``start`` and then runs a function with two pipes as its stdin and stdout."""

    def __init__(self, main: Callable[[int], int], module: str) -> None:
        """Fork. ``main``: takes this process's id and returns the exit status; ``module``: has this function."""
        theirs, stdin = os.pipe()
        stdout, output = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(stdin)
            os.close(stdout)
            _serve(main, module, theirs, output, parent)
        os.close(theirs)
        os.close(output)
        self.stdin, self.stdout = os.fdopen(stdin, "wb", buffering=0), os.fdopen(stdout, "rb", buffering=0)

    def start(self, environment: Mapping[str, str]) -> None:
        body = msgpack.packb(dict(environment), unicode_errors="surrogateescape")
        self.stdin.write(len(body).to_bytes(4, "big") + body)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def discard(self) -> None:
        """End it if it was never started."""
        self.stdin.close()
        self.wait()
        self.stdout.close()


def _serve(main: Callable[[int], int], module: str, stdin: int, stdout: int, parent: int) -> NoReturn:
    """Be the process. Does not return."""
    status = 1
    try:
        size = int.from_bytes(_read(stdin, 4), "big")
        variables = msgpack.unpackb(_read(stdin, size), unicode_errors="surrogateescape")
        become(variables, stdin, stdout, 2)
        _let_go()
        _show_as(["-m", module])
        status = main(parent)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _read(pipe: int, size: int) -> bytes:
    """Read so many bytes. Ends this process if the other one closes the pipe before: it needs no child, or died."""
    found = b""
    while len(found) < size:
        if not (part := os.read(pipe, size - len(found))):
            os._exit(0)
        found += part
    return found


def _let_go() -> None:
    """Keep no file, lock or pipe of the other process open. Its objects may still close their descriptors later."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the one that listed them
            if number > 2:
                os.dup2(nothing, number, inheritable=False)


def _show_as(words: Sequence[str]) -> None:
    """Change the command line that others see, by which nodes and tests recognize their processes (Linux)."""
    if sys.platform != "linux":
        return
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end = map(int, fields[_ARGUMENTS])
    text = b"".join(word.encode() + b"\0" for word in words)
    assert len(text) <= end - begin, "there is no room for it"
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
