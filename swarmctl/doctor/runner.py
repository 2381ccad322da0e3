"""Makes checks side by side. None can raise, and none can hang: what does not answer in its time is given up."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from hivemind_exp.errors import NodeError
from swarmctl.doctor import subprocesses as process
from swarmctl.doctor.check import Check, Context, Finding, Outcome, failed, skipped


def make(checks: Sequence[Check], context: Context) -> list[Outcome]:
    """Make all checks at once and return their outcomes in the same order."""
    began = time.monotonic()
    try:
        started = [(check, _start(check, context, began)) for check in checks]
        return [_outcome(check, answer, context, began) for check, answer in started]
    finally:
        process.end_all()


def _start(check: Check, context: Context, began: float) -> Future[Outcome]:
    answer: Future[Outcome] = Future()

    def run() -> None:
        finding = look(check, context)
        answer.set_result(Outcome(check, finding, time.monotonic() - began))

    # A daemon thread, which no executor has: one that hangs in a system call must not keep the program from ending.
    threading.Thread(target=run, name=check.key, daemon=True).start()
    return answer


def _outcome(check: Check, answer: Future[Outcome], context: Context, began: float) -> Outcome:
    """Wait for a check as long as it may take, and no longer."""
    try:
        return answer.result(max(0.0, began + check.limit - time.monotonic()))
    except TimeoutError:
        finding = failed(f"timed out after {check.limit:g} s", context.again(check.group))
        return Outcome(check, finding, time.monotonic() - began)


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
