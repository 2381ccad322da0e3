"""The environment of a process that was forked from one with another environment."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import tempfile
from collections.abc import Mapping


def use(environment: Mapping[str, str]) -> None:
    """Replace this process's environment, and what Python and the hub's client have already read from the old one."""
    from huggingface_hub import constants, hf_api

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT


def become(environment: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> None:
    """Give this process, a fork, another environment and other standard streams.

    What the other process left to the garbage collector stays: libraries' objects may wait for their threads when they
    are taken apart, and a fork has none of these threads.
    """
    gc.freeze()
    use(environment)
    for number, stream in enumerate((stdin, stdout, stderr)):
        os.dup2(stream, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
