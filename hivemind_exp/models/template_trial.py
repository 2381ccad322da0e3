"""Try a model's chat template in a process of its own, with limits, before it runs in this one.

A template is a program. Here, its CPU time can only be limited between two of its steps (``hivemind_exp.cpu_limit``),
but a single step such as ``9 ** (9 ** 9)`` may take hours, and ``'x' * 10**10`` fills the memory.
"""

import contextlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

MEMORY = 2**30
"""Bytes that a template may allocate (Linux; macOS does not enforce it)."""
_TOO_MUCH = 2
_PAUSE_S, _PATIENCE_S = 0.002, 600.0
"""How often the process is looked at, and for how long. It is usually done after a few milliseconds."""


def trial(render: Callable[[], object], seconds: int) -> str | None:
    """Call ``render`` in a forked process, and return the predicate of a sentence about it; None if it is harmless.

    ``seconds``: most CPU time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns if there are threads
        child = os.fork()
    if not child:
        _render(render, seconds)
    begun = time.monotonic()
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > begun + _PATIENCE_S:  # it waits for something, as no template does
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(_PAUSE_S)
    status = found[1]
    if os.WIFEXITED(status):
        return "needs too much memory" if os.WEXITSTATUS(status) == _TOO_MUCH else None
    return "takes too long"


def _render(render: Callable[[], object], seconds: int) -> None:
    """Call ``render`` within the limits, and exit."""
    code = 0
    try:
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            with contextlib.suppress(ValueError):  # there is a lower limit
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        render()
    except MemoryError:
        code = _TOO_MUCH
    finally:
        os._exit(code)  # also after any other error, which the caller meets again
