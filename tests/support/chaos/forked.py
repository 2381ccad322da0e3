"""A trainer that starts within a second: forked from a process that has imported everything.

It is the real trainer with the real protocol. Only its questions and rewards are made up, so that an untrained model
has something to learn. A pause per round keeps the machine usable.
"""

from __future__ import annotations

import ctypes
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import hivemind_exp.runner.__main__ as trainer
from hivemind_exp.runner import grpo_runner
from tests.support.chaos.namespaces import path_of
from tests.support.nodes import PacedRewards

_NETWORK = 0x40000000
"""CLONE_NEWNET of Linux."""


def play(order: Connection, log: Path, namespace: str | None) -> None:
    """Run one request as ``python -m hivemind_exp.runner`` does. Does not return."""
    os.setsid()
    if namespace is not None:
        enter(namespace)
    os.dup2(order.fileno(), 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the trainer's life line
    grpo_runner.make_mixture = lambda *_, **__: PacedRewards()  # type: ignore[assignment]
    status = trainer.main()
    sys.stdout.flush()
    os._exit(status)


def enter(namespace: str) -> None:
    """Move this single-threaded process into a network namespace. Raises OSError."""
    with path_of(namespace).open("rb") as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
