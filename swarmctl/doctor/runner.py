"""Makes checks side by side. None can raise, and none can hang: what does not answer in its time is given up."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from hivemind_exp.errors import NodeError
from swarmctl.doctor import subprocesses as process
from swarmctl.doctor.check import Check, Context, Finding, Outcome, failed, skipped


def make(checks: Sequence[Check], context: Context) -> list[Outcome]:
    """Make all checks at once and return their outcomes in the same order."""
    answers: queue.SimpleQueue[tuple[Check, Finding]] = queue.SimpleQueue()
    began = time.monotonic()
    try:
        for check in checks:
            # A daemon thread: one that hangs in a system call must not keep the program from ending.
            threading.Thread(target=_answer, args=(check, context, answers), name=check.key, daemon=True).start()
        outcomes = _collect(checks, context, answers, began)
    finally:
        process.end_all()
    return [outcomes[check.key] for check in checks]


def _collect(
    checks: Sequence[Check], context: Context, answers: queue.SimpleQueue[tuple[Check, Finding]], began: float
) -> dict[str, Outcome]:
    """Wait for each check as long as it may take, and no longer."""
    outcomes: dict[str, Outcome] = {}
    waiting = {check.key: check for check in checks}
    while waiting:
        wait = min(check.limit for check in waiting.values()) - (time.monotonic() - began)
        try:
            check, finding = answers.get(timeout=max(0.0, wait))
        except queue.Empty:
            elapsed = time.monotonic() - began
            for check in [each for each in waiting.values() if each.limit <= elapsed]:
                del waiting[check.key]
                outcomes[check.key] = Outcome(check, _timed_out(check, context), elapsed)
            continue
        if waiting.pop(check.key, None) is not None:
            outcomes[check.key] = Outcome(check, finding, time.monotonic() - began)
    return outcomes


def _answer(check: Check, context: Context, answers: queue.SimpleQueue[tuple[Check, Finding]]) -> None:
    answers.put((check, look(check, context)))


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


def _timed_out(check: Check, context: Context) -> Finding:
    return failed(f"timed out after {check.limit:g} s", context.again(check.group))
