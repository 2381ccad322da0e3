"""Fills orders from APIs on an event loop in a separate thread, while the trainer trains.

Each answer is written to the journal before it is used, and each request to the ledger before it is sent. The trainer's
thread submits orders and waits for them; everything else happens here. Generating (``[offload]``) and grading
(``[judge]``) have providers of their own, and share the ledger and the journal.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hivemind_exp.events import Emit, PhaseEvent, SpendEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.judge import table_of
from hivemind_exp.offload.ledger import Ledger
from hivemind_exp.offload.request_filler import PROBE_ROUND, ApiUse, RequestFiller
from hivemind_exp.offload.settings import OFFLOAD
from hivemind_exp.offload.shared_requests import SharedRequests
from hivemind_exp.offload.waiting import wait_for
from hivemind_exp.rollouts.types import CompletionRequest, RoundSpend, by_group
from hivemind_exp.stop import StopFlag

PARTING_S = 2.0
"""Seconds that answers in flight have to arrive when the node stops, since they are paid for."""


@dataclass(eq=False)
class ApiEngine:
    """The API side of a node. ``start`` it, use it from the trainer's thread, then ``close`` it."""

    uses: Sequence[ApiUse]
    _: KW_ONLY
    journal: tuple[Path, str]
    """The journal's path and the swarm's id."""
    ledger: Ledger
    """Used only in the loop's thread after ``start``."""
    emit: Emit
    stop: StopFlag

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="offload", daemon=True)
        self._ready: Future[None] = Future()
        self._orders: dict[tuple[int, str, str], CompletionRequest] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shared = SharedRequests()
        self._fillers: dict[str, RequestFiller] = {}
        """By table of settings."""

    def start(self) -> None:
        """Start the thread and send each first provider a test question. Raises any error from creating the clients."""
        self._thread.start()
        self._ready.result()
        for filler in self._fillers.values():
            self._loop.call_soon_threadsafe(self._launch, filler.try_out())

    def wait_for_probe(self) -> None:
        """Wait until the test requests to the first providers are done.

        Raises ``StopRequested``, or ``NodeError`` if neither such a provider nor a fallback can be used.
        """
        for filler in self._fillers.values():
            if not filler.probe.done():
                self.emit(PhaseEvent(name=f"waiting for the first answer of {filler.first.label}"))
            wait_for(filler.probe, self.stop)
        self.report_spend(PROBE_ROUND)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        """Start filling orders, each only once, and return immediately."""
        new = [order for key, order in by_group(orders).items() if self._orders.setdefault(key, order) is order]
        for table, filler in self._fillers.items():
            for work in filler.fills([order for order in new if table_of(order.stage) == table]):
                self._loop.call_soon_threadsafe(self._launch, work)

    def wait(self, round_: int, deadline: float | None = None) -> None:
        """Wait until every order of a round is filled or given up, or the deadline (``time.monotonic``) has passed.

        Completions that arrive after the deadline are still written to the journal. Raises ``StopRequested`` and
        ``NodeError``.
        """
        for table, filler in self._fillers.items():
            if filler.batches is not None:
                self._loop.call_soon_threadsafe(filler.batches.watch, round_)
            waited = {
                key: order for key, order in self._orders.items() if key[0] == round_ and table_of(order.stage) == table
            }
            report = filler.wait_report(list(waited.values()), partial(self.report_spend, round_))
            for key, order in waited.items():
                wait_for(order.done, self.stop, deadline, report)
                del self._orders[key]

    def set_aside(self, provider: str, why: str, command: str, table: str = OFFLOAD) -> None:
        """Stop using a provider in this run unless it is free. ``command``: to suggest if there is no fallback.

        ``table``: the settings whose requests no longer go to it. Another table's still do.
        """
        fault = RequestFailed(FaultKind.USELESS, why, next=command)
        self._loop.call_soon_threadsafe(self._fillers[table].set_aside, provider, fault)

    def report_spend(self, round_: int) -> bool:
        """Emit what a round's orders used and cost since the last call; return whether there was anything."""
        taken = self._take_spent(round_)
        for (provider, model), spent in taken.items():
            used = asdict(spent) | {"usd": round(spent.usd, 8), "tokens": spent.prompt_tokens + spent.completion_tokens}
            self.emit(SpendEvent(round=round_, provider=provider, model=model, **used, **self.ledger.state()))
        return bool(taken)

    def _take_spent(self, round_: int) -> dict[tuple[str, str], RoundSpend]:
        """Return what a round has used, by provider and model, and begin again at zero.

        While the loop runs, this happens in its thread, which may be adding a request's tokens.
        """
        if not self._thread.is_alive():
            return self._shared.spent.pop(round_, {})
        taken: Future[dict[tuple[str, str], RoundSpend]] = Future()
        self._loop.call_soon_threadsafe(lambda: taken.set_result(self._shared.spent.pop(round_, {})))
        return taken.result()

    def close(self) -> None:
        """Wait briefly for answers in flight, then end the thread and report any spending not yet reported."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            for round_ in sorted(self._shared.spent):
                self.report_spend(round_)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            journal = Journal(*self.journal, durable=False)
            for use in self.uses:
                filler = RequestFiller(
                    *(use, self._shared, journal, self.ledger, self.emit, self._launch, self._batches_running)
                )
                self._fillers[use.sampling.table] = filler
                if filler.batches is not None:  # collect those of an earlier start
                    self._loop.call_soon(filler.batches.resume)
        except BaseException as error:  # noqa: BLE001 - the trainer's thread raises it
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        journal.close()
        self.ledger.close()
        self._loop.close()

    async def _end(self) -> None:
        self._shared.closing = True
        for filler in self._fillers.values():
            if filler.batches is not None:
                await filler.batches.end()
        if self._shared.flying:
            await asyncio.wait(self._shared.flying, timeout=PARTING_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for filler in self._fillers.values():
            await filler.close()

    def _batches_running(self) -> bool:
        return any(filler.batches is not None and filler.batches.running for filler in self._fillers.values())

    def _launch(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
