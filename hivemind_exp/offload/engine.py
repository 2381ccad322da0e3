"""Fills orders from APIs on an event loop of its own thread, while the trainer trains.

Each answer is in the journal before anybody uses it, each request in the ledger before it goes out. The trainer's
thread places orders and waits for them; everything else happens here.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Waiting
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.errors import LimitReached
from hivemind_exp.events import Emit, PhaseEvent, SpendEvent, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.answers import BilledClient, ending
from hivemind_exp.offload.api.chat import FaultKind, RequestFailed, SamplingParams
from hivemind_exp.offload.batch.filler import BatchFiller
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.rollouts.types import CompletionRequest, Kind, by_group
from hivemind_exp.seeds import derive_seed
from hivemind_exp.stop import StopFlag

TRIES = 6
"""Requests in a row that bring nothing, after which a place is given up."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
"""Pauses of a place between requests that failed, doubling."""
PARTING_S = 2.0
"""What answers in flight get when the node stops: they are paid for."""
PROBE_TOKENS = 16
PROBE_TRIES = 3
PROBE_ROUND = -1
"""The round that the probe's cost is booked under."""
_PROBE = ({"role": "user", "content": "Reply with the single word: ready"},)
_POLL_S = 0.05


@dataclass(eq=False)
class Engine:
    """The API's side of a node. ``start`` it, use it from the trainer's thread, ``close`` it."""

    make_chain: Callable[[], Sequence[ProviderService | None]]
    """Called in the loop's thread."""
    kind: Kind
    sampling: SamplingParams
    _: KW_ONLY
    on_limit_local: bool
    """At a cap this machine goes on by itself; else the node stops."""
    journal: tuple[Path, str]
    """Its path and the swarm's id."""
    ledger: Ledger
    """Used in the loop's thread alone from ``start`` on."""
    emit: Emit
    stop: StopFlag

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="offload", daemon=True)
        self._ready: Future[None] = Future()
        self._probe: Future[None] = Future()
        self._orders: dict[tuple[int, str, str], CompletionRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._filler: BatchFiller | None = None

    def start(self) -> None:
        """Start the thread, and ask the first provider for a word. Raises what making the clients raises."""
        self._thread.start()
        self._ready.result()
        self._loop.call_soon_threadsafe(self._launch, self._try_out())

    def wait_for_probe(self) -> None:
        """Wait until the first provider was asked something small.

        Raises ``StopRequested``, and ``NodeError`` where neither it nor another can be used.
        """
        if not self._probe.done():
            self.emit(PhaseEvent(name="waiting for the provider's first answer"))
        _wait_for(self._probe, self.stop)
        self.report_spend(PROBE_ROUND)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        """Have orders filled, each once; returns at once."""
        new = [order for key, order in by_group(orders).items() if self._orders.setdefault(key, order) is order]
        for work in map(self._fill, new) if self._filler is None else self._filler.fills(new):
            self._loop.call_soon_threadsafe(self._launch, work)

    def wait(self, round_: int, deadline: float | None = None) -> None:
        """Wait until every order of a round is filled or given up, or the deadline (``time.monotonic``) has passed.

        What comes after it is kept in the journal, and nobody waits for it. Raises ``StopRequested`` and ``NodeError``.
        """
        if self._filler is not None:
            self._loop.call_soon_threadsafe(self._filler.watch, round_)
        for key in [key for key in self._orders if key[0] == round_]:
            _wait_for(self._orders[key].done, self.stop, deadline)
            del self._orders[key]

    def report_spend(self, round_: int) -> None:
        """Report what a round's orders used and cost."""
        for (provider, model), spent in self._billing.spent.pop(round_, {}).items():
            used = asdict(spent) | {"usd": round(spent.usd, 8), "tokens": spent.prompt_tokens + spent.completion_tokens}
            caps = {"usd_total": round(self.ledger.spent, 8), "usd_cap": self.ledger.cap}
            self.emit(SpendEvent(round=round_, provider=provider, model=model, **used, **caps))

    def close(self) -> None:
        """Let answers in flight come in for a moment, then end the thread and tell what is not told yet."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            for round_ in sorted(self._billing.spent):
                self.report_spend(round_)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._chain = list(self.make_chain())
            self._router = Router(self._chain, self.emit)
            journal = Journal(*self.journal, durable=False)
            self._billing = BilledClient(self.kind, self.sampling, journal, self.ledger, self._router, self.emit)
            # Where the first service is asked in batches, go on with those of an earlier start.
            first = self._chain[0]
            if first is not None and first.batches is not None:
                self._filler = BatchFiller(first, first.batches, self._billing, self._obtain, self._at_the_limit)
                self._loop.call_soon(self._filler.resume)
        except BaseException as error:  # noqa: BLE001 - the trainer's thread raises it
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._billing.journal.close()
        self.ledger.close()
        self._loop.close()

    async def _end(self) -> None:
        self._billing.closing = True
        if self._filler is not None:
            await self._filler.end()
        if self._billing.flying:
            await asyncio.wait(self._billing.flying, timeout=PARTING_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for service in self._chain:
            if service is not None:
                with suppress(Exception):
                    await service.client.close()

    def _launch(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try_out(self) -> None:
        """Find out before the first round whether the first provider answers."""
        with ending(self._probe):
            try:
                await self._ask_for_a_word()
            except LimitReached as error:
                await self._at_the_limit(error)
            self._router.give_up_if_lasting()

    async def _ask_for_a_word(self) -> None:
        service = self._chain[0]
        assert service is not None
        sampling = replace(self.sampling, max_tokens=min(PROBE_TOKENS, self.sampling.max_tokens))
        ask = RequestKey(service.endpoint.name, service.endpoint.model, PROBE_ROUND, "probe", "", 1)
        for tries in range(PROBE_TRIES):
            style = service.client.style.changes
            try:
                answer, reservation = await self._billing.send(service, ask, _PROBE, sampling, seed=0)
            except RequestFailed as fault:
                if not self._adapts(service, fault, style):
                    await self._after(service, fault, tries)
                if service.trouble is not None:
                    return
                continue
            self._billing.settle(service, reservation, answer, sampling)
            self._billing.look(service, answer, [])
            return

    async def _fill(self, order: CompletionRequest) -> None:
        with ending(order.done):
            first, *siblings = order.indices
            service = await self._router.acquire()
            if service is None:
                return
            self._router.release(service)
            if service.client.style.supports_n:
                await self._obtain(order, list(order.indices))
            else:
                # The first request of a prompt warms the service's prefix cache for the others.
                await self._obtain(order, [first])
                await asyncio.gather(*(self._launch(self._obtain(order, [place])) for place in siblings))

    async def _obtain(self, order: CompletionRequest, places: list[int]) -> None:
        """Fill places, in as many requests as that takes. Places that this machine is to fill stay empty."""
        tries = 0
        while places and not self._billing.closing and not order.refused:
            service = await self._router.acquire()
            if service is None:
                return
            if self._filler is not None and service is self._filler.service:
                self._router.release(service)  # it works again, and is asked in batches alone
                return
            if tries >= TRIES:
                self._router.release(service)
                self._billing.give_up(order, places, service, TRIES)
                return
            count, style = len(places) if service.client.style.supports_n else 1, service.client.style.changes
            endpoint, asked = service.endpoint, places[:count]
            key = RequestKey(endpoint.name, endpoint.model, order.round, order.stage, order.question, len(asked))
            seed = derive_seed("api", order.round, order.stage, order.question, asked[0], tries)
            try:
                answer, reservation = await self._billing.send(service, key, order.messages, self.sampling, seed=seed)
                got = self._billing.record(service, order, asked, reservation, answer)
            except RequestFailed as fault:
                if self._adapts(service, fault, style):
                    continue
                if self._router.refuses_prompt(service, fault):
                    self._billing.reject(order, service, fault)
                    return
                tries = await self._after(service, fault, tries)
                continue
            except LimitReached as error:
                self._router.release(service)
                await self._at_the_limit(error)
                continue
            tries = 0 if got else tries + 1
            places = places[got:]

    def _adapts(self, service: ProviderService, fault: RequestFailed, changes: int) -> bool:
        """Whether to ask again otherwise. ``changes``: those of the style that was complained of."""
        style = service.client.style
        if fault.trouble is not FaultKind.BAD_REQUEST or (style.changes == changes and not style.adapt(fault.detail)):
            return False
        self._router.release(service)
        return True

    async def _after(self, service: ProviderService, fault: RequestFailed, tries: int) -> int:
        """Do what a fault calls for; return the tries so far."""
        self._router.record_failure(service, fault)
        if service.trouble is not None or fault.trouble is FaultKind.SLOW_DOWN:
            return 0  # the pause is the router's and the limiter's business
        wait = fault.wait if fault.wait is not None else growing(tries, first=FIRST_PAUSE_S, longest=LONGEST_PAUSE_S)
        await asyncio.sleep(jittered(wait, 0.25))
        # What never reached the service says nothing about the question.
        return tries + fault.sent

    async def _at_the_limit(self, error: LimitReached) -> None:
        """Wait for reserves that come back; with none left, stop or go on without paying."""
        if self._billing.flying:
            await asyncio.sleep(_POLL_S)
            return
        if not self.on_limit_local:
            raise error
        if not self._router.budget_exhausted:
            self._router.broke_until = error.until
            lifts = "any more" if math.isinf(error.until) else "before tomorrow (UTC)"
            message = f"{error.message}; nothing that costs money is asked {lifts}"
            self.emit(WarningEvent(code="limit", message=message))


def _wait_for(future: Future[None], stop: StopFlag, deadline: float | None = None) -> None:
    """Wait for a result of the loop, or for a deadline. Raises ``StopRequested``, or what the future raises."""
    while True:
        stop.check()
        with suppress(Waiting):
            future.result(timeout=_POLL_S)
            return
        if deadline is not None and time.monotonic() >= deadline:
            return
