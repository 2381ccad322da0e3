"""Makes checks side by side, and runs the programs that they ask.

None can raise, and none can hang: what does not answer in its time is given up.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from hivemind_exp.errors import NodeError
from hivemind_exp.secrets import without_secrets
from swarmctl.doctor.check import Check, Context, Finding, Outcome, failed, skipped

_running: set[subprocess.Popen[str]] = set()


def make(checks: Sequence[Check], context: Context) -> list[Outcome]:
    """Make all checks at once and return their outcomes in the same order, each waited for as long as it may take."""
    began = time.monotonic()
    made: dict[Check, Outcome] = {}

    def run(check: Check) -> None:
        made[check] = Outcome(check, look(check, context), time.monotonic() - began)

    # Daemon threads, which no executor has: one that hangs in a system call must not keep the program from ending.
    threads = [threading.Thread(target=run, args=[check], name=check.key, daemon=True) for check in checks]
    outcomes = []
    try:
        for thread in threads:
            thread.start()
        for check, thread in zip(checks, threads, strict=True):
            thread.join(max(0.0, began + check.limit - time.monotonic()))
            late = failed(f"timed out after {check.limit:g} s", context.again(check.group))
            outcomes.append(made.get(check) or Outcome(check, late, time.monotonic() - began))
    finally:
        for process in list(_running):  # the thread that waits for it may not live to kill it
            _kill(process)
    return outcomes


def look(check: Check, context: Context) -> Finding:
    """Make one check here and now; whatever it raises becomes its finding, which for a NodeError says what to try."""
    if check.deep and not context.deep:
        return skipped("only with --deep")
    if check.profile and context.resolved is None:
        return skipped("needs a profile that can be used")
    try:
        return check.look(context)
    except NodeError as error:
        return failed(error.message, error.next)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not the end of the others
        return failed(f"could not be checked: {type(error).__name__}: {error}".splitlines()[0])


def ask(
    command: list[str], *, limit: float, environment: Mapping[str, str] | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, or kill it with all that it started after ``limit`` seconds. It gets no keys.

    Raises OSError where it cannot be started and ``subprocess.TimeoutExpired`` where it does not end.
    """
    process = subprocess.Popen(
        command,
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
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
