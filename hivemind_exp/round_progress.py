"""How much of long work is done, for views. It costs a look at the clock per token or micro-batch."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from hivemind_exp.events import Emit, PhaseEvent, discard

_Part = TypeVar("_Part")
REPORT_EVERY_S = 5.0
"""Work is reported after this many seconds, and again at most as often, if more is done. So short rounds report
nothing."""
REPORT_SHARE = 0.1
"""Nor is it reported again before it has taken this share longer, so that long rounds do not fill the log."""


@dataclass(slots=True)
class WorkProgress:
    """Reports one piece of work at a time. Without ``begin``, it reports nothing."""

    emit: Emit = discard
    _name: str = ""
    _total: int = 0
    _round: int | None = None
    _done: int = 0
    _begun: float = 0.0
    _due: float = field(default=float("inf"))
    _told: int | None = None

    def begin(self, name: str, total: int, round_: int | None = None) -> None:
        """Begin work of ``total`` parts. ``round_``: the round that it belongs to, counted from 0, if any."""
        self._name, self._total, self._round = name, total, round_
        self._done, self._told = 0, None
        self._begun = time.monotonic()
        self._due = self._begun + REPORT_EVERY_S

    def end(self) -> None:
        """End the work. If it has been reported, report that it is done."""
        if self._told not in (None, self._total):
            self._tell(self._total)
        self._due = float("inf")

    def add(self, parts: int) -> None:
        """Count finished parts."""
        self._done += parts
        self.look()

    def through(self, batches: Iterable[list[_Part]], processes: int = 1) -> Iterator[list[_Part]]:
        """Yield batches, and count their parts when the next is asked for.

        ``processes``: how many process as much at the same time.
        """
        for batch in batches:
            yield batch
            self.add(len(batch) * processes)

    def look(self, more: Callable[[], int] = lambda: 0) -> None:
        """Report if it is time. ``more``: returns the finished parts that were not added yet; called only then."""
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + max(REPORT_EVERY_S, REPORT_SHARE * (now - self._begun))
        done = min(self._done + more(), self._total)
        if done != self._told:
            self._tell(done)

    def _tell(self, done: int) -> None:
        self._told = done
        self.emit(PhaseEvent(name=self._name, done=done, total=self._total, round=self._round))
