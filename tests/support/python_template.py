"""One process that has imported the libraries, and of which the processes of a test run are forks.

The test run's workers and their fork servers would each import torch, transformers and TRL, which is most of what
they cost. ``ForkedPython`` writes a program that takes the arguments ``[OPTION...] -c CODE``, like Python, and runs the
code in a fork of this process, with its own streams, inherited descriptors and variables. It ends with the fork.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "FORKED_PYTHON"
"""Names the program for the fork servers of a run's workers."""
_MOST = 64
"""Descriptors that a program may inherit."""
_HIGH = 200
"""Descriptors from here on are not among those that a program inherits."""


class ForkedPython:
    """The process of which others are forked, and the program that starts them."""

    def __init__(self) -> None:
        """Start to import the libraries. Programs that are started meanwhile wait."""
        self._place = tempfile.TemporaryDirectory()
        path = f"{self._place.name}/socket"
        self.program = f"{self._place.name}/python"
        client = [sys.executable, "-S", str(Path(__file__).with_name("start_forked.py")), path]
        Path(self.program).write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n', encoding="utf-8")
        Path(self.program).chmod(0o700)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(_MOST)
            number = listener.fileno()
            python = os.environ.get(VARIABLE, sys.executable)  # inside such a fork: another fork, without imports
            self._process = subprocess.Popen(
                [python, "-c", f"from {__name__} import main; main({number})"], stdin=subprocess.PIPE, pass_fds=[number]
            )

    def close(self) -> None:
        """End the process and its forks."""
        self._process.kill()
        self._process.communicate()
        self._place.cleanup()


def main(number: int) -> None:
    """Fork for each request, until stdin closes: then the test run has ended, or was killed.

    ``number``: the descriptor of the socket on which it listens.
    """
    from hivemind_exp.processes.kernel import end_with_parent
    from tests.support.libraries import import_all

    import_all()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test run ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(fileno=number) as listener, selectors.DefaultSelector() as selector:
        for each in (listener, sys.stdin):
            selector.register(each, selectors.EVENT_READ)
        while not any(key.fileobj is sys.stdin for key, _ in selector.select()):
            line, _ = listener.accept()
            if os.fork() == 0:
                end_with_parent(signal.SIGKILL)  # a test run that is killed leaves no nodes
                selector.close()
                listener.close()
                _be(line)
            line.close()


def _be(line: socket.socket) -> None:
    """Be the program that a client asks for. Does not return."""
    status = 1
    _, given, *_ = socket.recv_fds(line, 1, _MOST)
    with line.makefile() as asked:
        order: dict[str, Any] = json.loads(asked.readline())
    ending = fcntl.fcntl(line, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    line.close()
    try:
        copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _HIGH) for number in given]
        for number in given:
            os.close(number)
        for number, wanted in zip(copies, order["numbers"], strict=True):
            os.dup2(number, wanted)
            os.close(number)
        status = _run(order)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        # What the interpreter does at its end, except to take all modules apart.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os.write(ending, str(status).encode())
        os._exit(status)


def _run(order: dict[str, Any]) -> int:
    from tests.support import own_environment

    own_environment.use(order["environment"])
    os.chdir(order["directory"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    option, code = order["arguments"][-2:]
    assert option == "-c"
    sys.argv = ["-c"]
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
    return 0
