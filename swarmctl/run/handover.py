"""Secrets on their way to the trainer: through a pipe that it reads and closes.

A command line shows in ``/proc/PID/cmdline``, an environment in ``/proc/PID/environ``, an open memory file in
``/proc/PID/fd``; a pipe that has been read shows nowhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_MOST = 32768
"""Half of what a pipe holds: what is written never waits for a reader."""


@contextmanager
def pipe_with(secrets: Mapping[str, str]) -> Iterator[int | None]:
    """Give the reading end of a pipe that holds ``secrets`` and then ends; None where there are none."""
    if not secrets:
        yield None
        return
    content = json.dumps(dict(secrets)).encode()
    assert len(content) <= _MOST
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
