"""The part of ``Popen`` that a node uses for its other processes, for a fork of the fork server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from multiprocessing.connection import Connection

from tests.support.patience import joined
from tests.support.restarts import processes


class ServerFork:
    """A process with two pipes as ``stdin`` and ``stdout``, forked from the fork server.

    Unlike a fork of this process, it inherits no threads, locks or open databases.
    """

    def __init__(self, main: Callable[..., object], *arguments: object) -> None:
        """Start it. ``main``: takes the descriptors of its ends of the pipes, and ``arguments``. All can be pickled."""
        context = processes()
        (theirs, stdin), (stdout, output) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._process = context.Process(target=_start, args=(main, theirs, output, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        theirs.close()
        output.close()
        self.stdin, self.stdout = os.fdopen(os.dup(stdin.fileno()), "wb"), os.fdopen(os.dup(stdout.fileno()), "rb")
        stdin.close()
        stdout.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        if not joined(self._process, timeout):
            raise subprocess.TimeoutExpired("a fork of the fork server", timeout or 0)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _start(main: Callable[..., object], stdin: Connection, stdout: Connection, arguments: tuple[object, ...]) -> None:
    main(stdin.fileno(), stdout.fileno(), *arguments)
