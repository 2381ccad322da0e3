"""The trainer's wait for an API: it ends when a stop is requested, and is reported if it takes long."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Waiting
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from hivemind_exp.events import Emit, PhaseEvent
from hivemind_exp.offload.hints import STAGE as HINT_STAGE
from hivemind_exp.offload.judge import STAGE as JUDGE_STAGE
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.offload.settings import SCORE_STAGE
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.stop import StopFlag

POLL_S = 0.05
REPORT_EVERY_S = 5.0
"""A wait is reported after this many seconds, and again at most as often, if something has changed."""


_PARTS = {SCORE_STAGE: "scores", JUDGE_STAGE: "grades", HINT_STAGE: "hints"}
"""What a service sends for orders of these stages. For all others, it sends completions."""


@dataclass
class WaitReport:
    """Reports what has been spent, which service a wait is for and how far it is. Call it again and again."""

    services: Sequence[ProviderService | None]
    """In order of preference."""
    orders: Sequence[CompletionRequest]
    emit: Emit
    report_spend: Callable[[], bool]
    """Emits what was spent since its last call; returns whether there was anything."""
    _due: float = field(default_factory=lambda: time.monotonic() + REPORT_EVERY_S)
    _told: PhaseEvent | None = None

    def __call__(self) -> None:
        """Emit spending and a phase if they are due.

        If no service is available and this machine does not generate instead, a warning has said what is waited for.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REPORT_EVERY_S
        if self.report_spend():
            self._told = None  # views take spending as the end of a wait, so the phase follows again
        asked = self._asked()
        if asked is None:
            return
        done, total = sum(order.completed for order in self.orders), sum(len(order.indices) for order in self.orders)
        name = f"waiting for {asked}, {_PARTS.get(self.orders[0].stage, 'completions')}"
        if (event := PhaseEvent(name=name, done=done, total=total)) != self._told:
            self._told = event
            self.emit(event)

    def _asked(self) -> str | None:
        """Return what the wait is for; None if it is for a service that is not available."""
        known = [each for each in self.services if each is not None]
        if (works := next((each for each in known if each.trouble is None), None)) is not None:
            return f"{works.label}{' (it limits the rate of requests)' if works.slowed else ''}"
        # This machine generates the rest once they have been answered or given up.
        return f"requests sent before {known[0].label} failed" if None in self.services and known else None


def wait_for(
    future: Future[None], stop: StopFlag, deadline: float | None = None, report: Callable[[], None] = lambda: None
) -> None:
    """Wait for a future of the event loop, or until a deadline. Raises ``StopRequested`` or the future's exception."""
    while True:
        stop.check()
        with suppress(Waiting):
            future.result(timeout=POLL_S)
            return
        if deadline is not None and time.monotonic() >= deadline:
            return
        report()


@contextmanager
def ending(*futures: Future[None]) -> Iterator[None]:
    """Complete ``futures`` when the block ends: done, cancelled, or with its exception for the trainer's thread."""
    try:
        yield
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    except BaseException as error:  # noqa: BLE001 - the trainer's thread raises it
        for future in futures:
            future.set_exception(error)
    else:
        for future in futures:
            future.set_result(None)
