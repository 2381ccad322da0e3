"""Fills the requests of one table of settings, ``[offload]`` or ``[judge]``, from its providers."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.errors import LimitReached
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.answers import BilledClient
from hivemind_exp.offload.api.dialect import SamplingParams
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.api_requests import ChatRequest, ScoreRequest
from hivemind_exp.offload.batch.filler import BatchFiller
from hivemind_exp.offload.catalog import lacks, missing, read_list
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.rejected import remedy
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.offload.shared_requests import SharedRequests
from hivemind_exp.offload.unscored import cannot_score
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.offload.waiting import POLL_S, WaitReport, ending
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind

TRIES = 6
"""A slot is given up after this many requests in a row that bring nothing."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
"""Pauses between a slot's failed requests double from the first to the longest."""
PROBE_TRIES = 3
PROBE_ROUND = -1
"""The round under which the test request's cost is recorded."""
_BATCH_POLL_S = 2.0
"""Seconds until a request that waits for the reserves of batches is tried again."""


@dataclass(frozen=True, slots=True)
class ApiUse:
    """What a table of settings says about its requests."""

    make_chain: Callable[[], Sequence[ProviderService | None]]
    """Returns the providers in order of preference; None is this machine. Called in the loop's thread."""
    kind: Kind
    sampling: SamplingParams
    on_limit_local: bool = False
    """Whether this machine takes over when a cap is reached; otherwise the node stops."""
    scores: bool = False
    """Whether the requests are to score tokens. The test request is then one of them, too."""


@dataclass(eq=False)
class RequestFiller:
    """Fills the requests of one use. Use it from the event loop, except where a method says otherwise."""

    use: ApiUse
    shared: SharedRequests
    journal: Journal
    ledger: Ledger
    emit: Emit
    launch: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    """Starts a task that the engine cancels at its end."""
    batches_running: Callable[[], bool]
    """Whether batches of any use hold reserves, which they release when they are done."""

    def __post_init__(self) -> None:
        self.chain = list(self.use.make_chain())
        self.probe: Future[None] = Future()
        """Done when the test request to the first provider is."""
        self._router = Router(self.chain, self.emit)
        self._billing = BilledClient(
            self.use.kind, self.use.sampling, self.journal, self.ledger, self._router, self.emit, self.shared
        )
        self._tests: dict[ProviderService, asyncio.Task[Any]] = {}
        self._waits_for_batches = False
        self.batches: BatchFiller | None = None
        """Fills the requests if they go through the first provider's Batch API."""
        first = self.first
        if first.batches is not None:
            self.batches = BatchFiller(first, first.batches, self._billing, self._obtain, self._at_the_limit)

    @property
    def first(self) -> ProviderService:
        """The provider that is asked first."""
        first = self.chain[0]
        assert first is not None
        return first

    def fills(self, orders: Sequence[CompletionRequest]) -> Iterable[Coroutine[None, None, None]]:
        """Return coroutines that fill orders and complete them. Safe from any thread."""
        return map(self._fill, orders) if self.batches is None else self.batches.fills(orders)

    def wait_report(self, orders: Sequence[CompletionRequest], report_spend: Callable[[], bool]) -> Callable[[], None]:
        """Return what reports the trainer's wait for orders. Batches report their own progress.

        ``report_spend``: see ``WaitReport``.
        """
        return WaitReport(self.chain, orders, self.emit, report_spend) if self.batches is None else lambda: None

    def set_aside(self, provider: str, fault: RequestFailed) -> None:
        """Stop using a provider in this run unless it is free."""
        self._router.set_aside(provider, fault)

    async def close(self) -> None:
        """Close the clients."""
        for service in self.chain:
            if service is not None:
                with suppress(Exception):
                    await service.client.close()

    async def try_out(self) -> None:
        """Before the first round, find out whether the first provider answers, and how."""
        with ending(self.probe):
            try:
                self._tests[self.first] = self.launch(self._test(self.first))
                await self._tests[self.first]
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
        if self.use.scores:
            return  # the trainer knows the tokens, so it requests the test
        test = ChatRequest(TEST_MESSAGES, 1, self.use.sampling, seed=0)
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
            self._billing.record_cost(service, reservation, answer, self.use.sampling)
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
                await asyncio.gather(*(self.launch(self._obtain(order, [place])) for place in siblings))

    async def _obtain(self, order: CompletionRequest, places: list[int], siblings: Sequence[int] = ()) -> bool:
        """Fill slots, in as many requests as needed; return False if they were given up.

        Slots left to this machine stay empty. ``siblings``: slots that are given up with them.
        """
        tries = 0
        while places and not self.shared.closing and not order.refused:
            service = await self._router.acquire()
            if service is None:
                return True
            if self.batches is not None and service is self.batches.service:
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
                    scores, reservation = await self._billing.send(service, key, ScoreRequest(order.scored, endpoint))
                    self._billing.record_scores(service, order, reservation, scores)
                    return True
                request = ChatRequest(order.messages, len(asked), self.use.sampling, seed)
                answer, reservation = await self._billing.send(service, key, request)
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
            test = self._tests[service] = self.launch(self._test(service))
        try:
            await asyncio.shield(test)
        except LimitReached as error:
            self._tests.pop(service, None)
            self._router.release(service)
            await self._at_the_limit(error)
            return False
        return service.trouble is None or service.probing

    def _adapts(self, service: ProviderService, fault: RequestFailed, changes: int) -> bool:
        """Whether to retry with changed parameters. If not, what helps is added to the failure.

        ``changes``: the style's ``changes`` when the rejected request was sent.
        """
        style = service.client.style
        if fault.trouble is not FaultKind.BAD_REQUEST:
            return False
        if style.changes == changes and not style.adapt(fault.detail, first=not service.answered):
            found = remedy(fault.detail, style, self.use.sampling, service.endpoint.name)
            if found is not None:
                fault.detail, fault.next = f"{fault.detail}. {found.advice}", found.command
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
        if self.shared.flying:
            await asyncio.sleep(POLL_S)
            return
        if self.batches_running():
            if not self._waits_for_batches:
                self._waits_for_batches = True
                text = f"{error.message}. Waiting for running batches, which release what is reserved for them"
                self.emit(WarningEvent(code="waits_for_batches", message=text))
            await asyncio.sleep(_BATCH_POLL_S)
            return
        if not self.use.on_limit_local:
            raise error
        if not self._router.budget_exhausted:
            self._router.broke_until = error.until
            lifts = "for the rest of this run" if math.isinf(error.until) else "until tomorrow (UTC)"
            message = f"{error.message}; paid providers are not used {lifts}"
            self.emit(WarningEvent(code="limit", message=message))
