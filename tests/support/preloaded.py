"""Imported by the fork server once, so its processes start at once, and so they end with the test run.

The fork server ends once no process has the other end of a pipe open. As Python has it, its processes have it open too,
so it would outlive a test run that is killed for as long as a node plays rounds.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from multiprocessing import forkserver, util

import psutil

from hivemind_exp.processes.imports import leave_out
from tests.support.libraries import import_all


def _close_pipe(server: forkserver.ForkServer) -> None:
    """Close a new process's copy of the pipe, so that only the test run has one."""
    if (pipe := server._forkserver_alive_fd) is not None:  # type: ignore[attr-defined]
        os.close(pipe)
        server._forkserver_alive_fd = None  # type: ignore[attr-defined]


def _end_all(server: int) -> None:
    """Kill what the fork server's processes are still running, when it ends."""
    if os.getpid() != server:
        return
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


leave_out("trackio", "wandb")  # as the trainer does
import_all()
util.register_after_fork(forkserver._forkserver, _close_pipe)  # type: ignore[attr-defined]
atexit.register(_end_all, os.getpid())
