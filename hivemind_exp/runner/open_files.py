"""Warns when the trainer has many open files, before it runs out of them."""

import os
import resource

from hivemind_exp.events import Emit, Event, RoundEvent, WarningEvent

_PART = 0.5
"""Share of the limit that is too many."""
_WORSE = 1.2
"""The warning is repeated once there are this many times as many."""


class OpenFilesWatch:
    """Receives a run's events, passes them on, and counts the open files after every round.

    The trainer does this itself, because no other process may look into it.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._told = 0

    def __call__(self, event: Event, /) -> None:
        """Raises OSError as the receiver does."""
        self._emit(event)
        if not isinstance(event, RoundEvent):
            return
        limit, number = resource.getrlimit(resource.RLIMIT_NOFILE)[0], count_open_files()
        if limit == resource.RLIM_INFINITY or number <= _PART * limit or number < _WORSE * self._told:
            return
        self._told = number
        message = (
            f"the trainer has {number:,} open files, and the limit is {limit:,} (ulimit -n). `swarmctl restart` closes "
            "them; no round is lost"
        )
        self._emit(WarningEvent(code="growth", message=message))


def count_open_files() -> int:
    """Return the number of files, sockets and pipes that this process has open."""
    return len(os.listdir("/dev/fd"))
