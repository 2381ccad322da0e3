"""Limit the CPU time of foreign code that runs in this process, such as a model's chat template."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class CpuLimitReached(BaseException):
    """The block used too much CPU time. Not an Exception, so that no library takes it for its own error."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise ``CpuLimitReached`` if the block uses more CPU time, unless an outer limit applies already.

    Waiting does not count, so a busy machine changes nothing. Only the main thread can be interrupted; elsewhere, there
    is no limit.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _raise)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)  # again, in case a destructor swallows it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise CpuLimitReached
