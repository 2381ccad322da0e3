"""Programs that a check asks, each with its own end (``subprocess.run`` would leave running what they started)."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from hivemind_exp.secrets import without_secrets

_running: set[subprocess.Popen[str]] = set()


def ask(
    command: Sequence[str],
    *,
    limit: float,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, or kill it with all that it started after ``limit`` seconds. It gets no keys.

    Raises OSError where it cannot be started and ``subprocess.TimeoutExpired`` where it does not end.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=without_secrets(os.environ if environment is None else environment),
        start_new_session=True,
    )
    _running.add(process)
    try:
        output, errors = process.communicate(text, timeout=limit)
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        _running.discard(process)
    return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


def end_all() -> None:
    """Kill what still runs: the thread that waits for it may not live to do so."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
