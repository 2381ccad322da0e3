"""The real model that several test modules download and convert, which takes half a minute of CPU time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def downloading() -> Iterator[None]:
    """Let one process of the test run after the other fetch the model: the first one downloads it for all."""
    with Path(tempfile.gettempdir(), f"swarmctl-tests-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
