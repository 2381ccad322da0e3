"""Secrets on their way: out of every child's environment, and to the trainer through a pipe that it reads and closes.

A command line shows in ``/proc/PID/cmdline``, an environment in ``/proc/PID/environ``, an open memory file in
``/proc/PID/fd``; a pipe that has been read shows nowhere.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hivemind_exp.sources.providers import KEY_VARIABLES

_KEY_VARIABLE = re.compile(r".*_API_KEY(_FILE)?")
"""Also those of services that are no row of the table."""
_MOST = 32768
"""Half of what a pipe holds: what is written never waits for a reader."""


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that hold keys, or lead to files of keys."""
    return {
        name: value
        for name, value in environment.items()
        if name not in KEY_VARIABLES and name != "CREDENTIALS_DIRECTORY" and not _KEY_VARIABLE.fullmatch(name)
    }


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
