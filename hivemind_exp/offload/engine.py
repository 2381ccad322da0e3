"""Fills orders from APIs on an event loop in a separate thread, while the trainer trains.

Each answer is written to the journal before it is used, and each request to the ledger before it is sent. The trainer's
thread submits orders and waits for them; everything else happens here.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.errors import LimitReached
from hivemind_exp.events import Emit, PhaseEvent, SpendEvent, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.answers import BilledClient
from hivemind_exp.offload.api.dialect import SamplingParams
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.batch.filler import BatchFiller
from hivemind_exp.offload.catalog import lacks, missing, read_list
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.posts import ChatPost, ScorePost
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.offload.unscored import cannot_score
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.offload.waiting import POLL_S, WaitReport, ending, wait_for
from hivemind_exp.rollouts.types import CompletionRequest, Kind, by_group
from hivemind_exp.seeds import derive_seed
from hivemind_exp.stop import StopFlag

TRIES = 6
"""A slot is given up after this many requests in a row that bring nothing."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
"""Pauses between a slot's failed requests double from the first to the longest."""
PARTING_S = 2.0
"""Seconds that answers in flight have to arrive when the node stops, since they are paid for."""
PROBE_TRIES = 3
PROBE_ROUND = -1
"""The round under which the test request's cost is recorded."""


@dataclass(eq=False)
class Engine:
    """The API side of a node. ``start`` it, use it from the trainer's thread, then ``close`` it."""

    make_chain: Callable[[], Sequence[ProviderService | None]]
    """Called in the loop's thread."""
    kind: Kind
    sampling: SamplingParams
    _: KW_ONLY
    on_limit_local: bool
    """Whether this machine takes over when a cap is reached; otherwise the node stops."""
    journal: tuple[Path, str]
    """The journal's path and the swarm's id."""
    ledger: Ledger
    """Used only in the loop's thread after ``start``."""
    emit: Emit
    stop: StopFlag
    scores: bool = False
    """Whether the orders are to score tokens. The test request is then an order, too."""

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="offload", daemon=True)
        self._ready: Future[None] = Future()
        self._probe: Future[None] = Future()
        self._orders: dict[tuple[int, str, str], CompletionRequest] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tests: dict[ProviderService, asyncio.Task[Any]] = {}
        self._filler: BatchFiller | None = None

    def start(self) -> None:
        """Start the thread and send the first provider a test question. Raises any error from creating the clients."""
        self._thread.start()
        self._ready.result()
        self._loop.call_soon_threadsafe(self._launch, self._try_out())

    def wait_for_probe(self) -> None:
        """Wait until the test request to the first provider is done.

        Raises ``StopRequested``, or ``NodeError`` if neither that provider nor a fallback can be used.
        """
        if not self._probe.done():
            first = self._chain[0]
            assert first is not None
            self.emit(PhaseEvent(name=f"waiting for the first answer of {first.endpoint.label}"))
        wait_for(self._probe, self.stop)
        self.report_spend(PROBE_ROUND)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        """Start filling orders, each only once, and return immediately."""
        new = [order for key, order in by_group(orders).items() if self._orders.setdefault(key, order) is order]
        for work in map(self._fill, new) if self._filler is None else self._filler.fills(new):
            self._loop.call_soon_threadsafe(self._launch, work)

    def wait(self, round_: int, deadline: float | None = None) -> None:
        """Wait until every order of a round is filled or given up, or the deadline (``time.monotonic``) has passed.

        Completions that arrive after the deadline are still written to the journal. Raises ``StopRequested`` and
        ``NodeError``.
        """
        if self._filler is not None:
            self._loop.call_soon_threadsafe(self._filler.watch, round_)
        waited = {key: order for key, order in self._orders.items() if key[0] == round_}
        # Batches report how far they are.
        report = WaitReport(self._chain, list(waited.values()), self.emit) if self._filler is None else lambda: None
        for key, order in waited.items():
            wait_for(order.done, self.stop, deadline, report)
            del self._orders[key]

    def set_aside(self, provider: str, why: str, command: str) -> None:
        """Stop using a provider in this run unless it is free. ``command``: to suggest if there is no fallback."""
        fault = RequestFailed(FaultKind.USELESS, why, next=command)
        self._loop.call_soon_threadsafe(self._router.set_aside, provider, fault)

    def report_spend(self, round_: int) -> None:
        """Emit what a round's orders used and cost."""
        for (provider, model), spent in self._billing.spent.pop(round_, {}).items():
            used = asdict(spent) | {"usd": round(spent.usd, 8), "tokens": spent.prompt_tokens + spent.completion_tokens}
            self.emit(SpendEvent(round=round_, provider=provider, model=model, **used, **self.ledger.state()))

    def close(self) -> None:
        """Wait briefly for answers in flight, then end the thread and report any spending not yet reported."""
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
            # If the first service is used in batches, resume those of an earlier start.
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

    def _launch(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try_out(self) -> None:
        """Before the first round, find out whether the first provider answers, and how."""
        with ending(self._probe):
            first = self._chain[0]
            assert first is not None
            try:
                self._tests[first] = self._launch(self._test(first))
                await self._tests[first]
            except LimitReached as error:
                await self._at_the_limit(error)
            self._router.give_up_if_lasting()

    async def _test(self, service: ProviderService) -> None:
        """Send a service the test request, unless its model list lacks the model. The list is free."""
        absent = await self._absence(service)
        # A service may leave users' own weights out of its list.
        if absent is not None and not service.endpoint.chat.serves_own_weights:
            self._router.record_failure(service, absent)
            return
        if self.scores:
            return  # the trainer knows the tokens, so it requests the test
        test = ChatPost(TEST_MESSAGES, 1, self.sampling, seed=0)
        ask = RequestKey(service.endpoint.name, service.endpoint.model, PROBE_ROUND, "probe", "", 1)
        for tries in range(PROBE_TRIES):
            style = service.client.style.changes
            try:
                answer, reservation = await self._billing.send(service, ask, test)
            except RequestFailed as fault:
                if not self._adapts(service, fault, style):
                    if absent is not None and fault.trouble is FaultKind.BAD_REQUEST:
                        fault = absent
                    elif fault.detail.startswith("HTTP 404") and "/v1" not in service.endpoint.base_url:
                        fault.detail += "; perhaps base_url must end with /v1"
                    if fault.trouble is FaultKind.TIMEOUT and tries + 1 < PROBE_TRIES:
                        text = f"did not answer the test request ({fault.detail}); trying again"
                        self.emit(service.warning("test_timed_out", text))
                    await self._after(service, fault, tries)
                if service.trouble is None and not fault.sent and tries == PROBE_TRIES - 1:
                    self._router.begin_outage(service, fault)
                if service.trouble is not None:
                    return
                continue
            self._billing.settle(service, reservation, answer, self.sampling)
            if service.client.style.changes != style and not any(choice.usable for choice in answer.choices):
                continue  # its reasoning used up the tokens
            self._billing.note_text(service, answer)
            self._billing.note_test(service, answer)
            self._billing.look(service, answer, [])
            return

    async def _absence(self, service: ProviderService) -> RequestFailed | None:
        """Return the failure of a service whose model list lacks the requested model; None if it has it or no list."""
        endpoint = service.endpoint
        try:
            rows = read_list(await service.client.models())
        except RequestFailed:
            return None  # the test request shows what is wrong
        if not rows or not lacks(rows, endpoint.model):
            return None
        return RequestFailed(FaultKind.BAD_REQUEST, missing(endpoint, rows), next=f"swarmctl models {endpoint.name}")

    async def _fill(self, order: CompletionRequest) -> None:
        with ending(order.done):
            first, *siblings = order.indices
            if order.scored is not None:
                await self._obtain(order, [first])
                return
            service = await self._router.acquire()
            if service is None:
                return
            self._router.release(service)
            if service.client.style.supports_n:
                await self._obtain(order, list(order.indices))
            # A prompt's first request fills the service's prefix cache for the others. If six requests have no result,
            # the others are not tried.
            elif await self._obtain(order, [first], siblings):
                await asyncio.gather(*(self._launch(self._obtain(order, [place])) for place in siblings))

    async def _obtain(self, order: CompletionRequest, places: list[int], siblings: Sequence[int] = ()) -> bool:
        """Fill slots, in as many requests as needed; return False if they were given up.

        Slots left to this machine stay empty. ``siblings``: slots that are given up with them.
        """
        tries = 0
        while places and not self._billing.closing and not order.refused:
            service = await self._router.acquire()
            if service is None:
                return True
            if self._filler is not None and service is self._filler.service:
                self._router.release(service)  # it works again, but is used only in batches
                return True
            if tries >= TRIES:
                self._router.release(service)
                self._billing.give_up(order, [*places, *siblings], service, TRIES)
                return False
            if not await self._tested(service):
                continue
            count, style = len(places) if service.client.style.supports_n else 1, service.client.style.changes
            endpoint, asked = service.endpoint, places[:count]
            key = RequestKey(endpoint.name, endpoint.model, order.round, order.stage, order.question, len(asked))
            seed = derive_seed("api", order.round, order.stage, order.question, asked[0], tries)
            try:
                if order.scored is not None:
                    scores, reservation = await self._billing.send(service, key, ScorePost(order.scored, endpoint))
                    self._billing.record_scores(service, order, reservation, scores)
                    return True
                post = ChatPost(order.messages, len(asked), self.sampling, seed)
                answer, reservation = await self._billing.send(service, key, post)
                got = self._billing.record(service, order, asked, reservation, answer)
            except RequestFailed as fault:
                if self._adapts(service, fault, style):
                    continue
                if order.scored is not None and order.round < 0 and fault.trouble is FaultKind.BAD_REQUEST:
                    raise cannot_score(service, f"it rejects a test request ({fault.detail})") from fault
                if self._router.refuses_prompt(service, fault):
                    self._billing.reject(order, service, fault)
                    return True
                tries = await self._after(service, fault, tries)
                continue
            except LimitReached as error:
                self._router.release(service)
                await self._at_the_limit(error)
                continue
            tries = 0 if got else tries + 1
            places = places[got:]
        return True

    async def _tested(self, service: ProviderService) -> bool:
        """Send a fallback a test request before its first use, while others wait; return whether it can be used."""
        test = self._tests.get(service)
        if test is None:
            test = self._tests[service] = self._launch(self._test(service))
        try:
            await asyncio.shield(test)
        except LimitReached as error:
            self._tests.pop(service, None)
            self._router.release(service)
            await self._at_the_limit(error)
            return False
        return service.trouble is None or service.probing

    def _adapts(self, service: ProviderService, fault: RequestFailed, changes: int) -> bool:
        """Whether to retry with changed parameters.

        ``changes``: the style's ``changes`` when the rejected request was sent.
        """
        style = service.client.style
        if fault.trouble is not FaultKind.BAD_REQUEST:
            return False
        if style.changes == changes and not style.adapt(fault.detail, first=not service.answered):
            return False
        self._router.release(service)
        self._billing.note_dropped(service)
        return True

    async def _after(self, service: ProviderService, fault: RequestFailed, tries: int) -> int:
        """Handle a failure: update the router and pause. Return the number of tries so far."""
        self._router.record_failure(service, fault)
        if service.trouble is not None or fault.trouble is FaultKind.SLOW_DOWN:
            # The router or the limiter does the waiting. Tries that may be billed are limited even in an outage:
            # perhaps this very prompt crashes the server.
            return tries + 1 if fault.billed else 0
        wait = fault.wait if fault.wait is not None else growing(tries, first=FIRST_PAUSE_S, longest=LONGEST_PAUSE_S)
        await asyncio.sleep(jittered(wait, 0.25))
        # A request that never reached the service doesn't count as a try.
        return tries + fault.sent

    async def _at_the_limit(self, error: LimitReached) -> None:
        """At a cap, wait for reserves to be released. If none are left, stop or continue without paid services."""
        if self._billing.flying:
            await asyncio.sleep(POLL_S)
            return
        if not self.on_limit_local:
            raise error
        if not self._router.budget_exhausted:
            self._router.broke_until = error.until
            lifts = "for the rest of this run" if math.isinf(error.until) else "until tomorrow (UTC)"
            message = f"{error.message}; paid providers are not used {lifts}"
            self.emit(WarningEvent(code="limit", message=message))
