"""Fills orders through a service's Batch API: a round's orders are sent together and answered within a day.

There is one batch per round and stage, so that a round can be trained as soon as its own batch is done. While the
service is down, its orders go to the next service in the chain, as they would without batches.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hivemind_exp.errors import LimitReached
from hivemind_exp.events import PhaseEvent, WarningEvent
from hivemind_exp.offload.answers import BilledClient, unfilled
from hivemind_exp.offload.api.batch import BatchClient, Line, Request, encode_line, parcels
from hivemind_exp.offload.api.dialect import body, most_tokens
from hivemind_exp.offload.batch.job import Batch, BatchJob, BatchStore, State
from hivemind_exp.offload.prices import PromptBound, worst_case
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.offload.waiting import ending
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.seeds import derive_seed

TRIES = 3
"""A slot is given up after this many batches in a row that bring nothing for it. The number is small because each batch
may take a day, and the service itself tries a line several times."""
_BYTES_A_TOKEN = 8
_Missing = list[tuple[CompletionRequest, list[int]]]


@dataclass(eq=False)
class BatchFiller:
    """Fills orders through one service's Batch API. Use it from one event loop."""

    service: ProviderService
    client: BatchClient
    billing: BilledClient
    ask_directly: Callable[[CompletionRequest, list[int]], Awaitable[object]]
    """Fills slots through any other service in the chain."""
    at_the_limit: Callable[[LimitReached], Awaitable[None]]
    """Handles a reached cap."""

    def __post_init__(self) -> None:
        endpoint = self.service.endpoint
        self._book = BatchStore(self.billing.ledger, endpoint.name, endpoint.model)
        self._job = BatchJob(self.service, self.client, self._book, self.billing, moved=self._tell)
        self._running: dict[asyncio.Task[bool], Batch] = {}
        self._earlier: dict[tuple[int, str], list[asyncio.Task[bool]]] = defaultdict(list)
        self._watched: int | None = None
        self._told: tuple[int, int] | None = None

    def resume(self) -> None:
        """Resume the batches that an earlier start left at the service."""
        for batch in self._book.pending():
            if batch.state is State.NEW or not batch.items:
                self._job.drop(batch, "the node stopped before it was submitted")
            else:
                self._earlier[batch.round, batch.stage].append(self._start(batch, None))

    def fills(self, orders: Iterable[CompletionRequest]) -> list[Coroutine[None, None, None]]:
        """Return coroutines that fill orders and complete them, one per round and stage. Safe from any thread."""
        together: dict[tuple[int, str], list[CompletionRequest]] = defaultdict(list)
        for order in orders:
            together[order.round, order.stage].append(order)
        return [self._fill(each) for each in together.values()]

    @property
    def running(self) -> bool:
        """Whether there are batches at the service, or on their way."""
        return bool(self._running)

    def watch(self, round_: int) -> None:
        """Report the progress of a round's batches from now on, since the trainer waits for them."""
        self._watched, self._told = round_, None
        self._tell()

    async def end(self) -> None:
        """Stop waiting for batches. They continue at the service, and the next start collects them."""
        left = [batch for batch in self._running.values() if batch.state is not State.NEW]
        if left:
            requests, name = sum(len(batch.items) for batch in left), self.service.endpoint.name
            batches = "1 batch" if len(left) == 1 else f"{len(left)} batches"
            message = f"requests still running at {name}: {requests} in {batches}; the next start collects them"
            self.billing.emit(WarningEvent(code="batch_pending", message=message))
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _fill(self, orders: Sequence[CompletionRequest]) -> None:
        with ending(*(order.done for order in orders)):
            await asyncio.gather(*self._earlier.pop((orders[0].round, orders[0].stage), []))
            tries: Counter[str] = Counter()
            while not self.billing.shared.closing and (missing := self._missing(orders, tries)):
                service = await self.billing.router.acquire()
                if service is None:
                    return
                if service is not self.service:
                    await asyncio.gather(*(self.ask_directly(order, places) for order, places in missing))
                    continue
                try:
                    opened = self._open(missing, tries)
                except LimitReached as error:
                    self.billing.router.release(service)
                    # Reserves are released as other batches finish. If none are running, the cap is really reached.
                    if self._running:
                        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                    else:
                        await self.at_the_limit(error)
                    continue
                counted = await asyncio.gather(*(self._start(batch, data) for batch, data in opened))
                self._count(
                    tries, missing, [batch for (batch, _), counts in zip(opened, counted, strict=True) if counts]
                )

    def _missing(self, orders: Sequence[CompletionRequest], tries: Counter[str]) -> _Missing:
        """Return the slots still to fill; give up those for which ``TRIES`` batches in a row brought nothing."""
        missing: _Missing = []
        for order in orders:
            places = unfilled(self.billing.journal, order)
            if places and tries[order.question] >= TRIES:
                self.billing.give_up(order, places, self.service, TRIES)
            elif places:
                missing.append((order, places))
        return missing

    def _count(self, tries: Counter[str], asked: _Missing, counting: list[Batch]) -> None:
        """Count a try for each question for which its batch brought nothing."""
        vain = {line.question for batch in counting for line, _ in batch.items}
        for order, places in asked:
            if self.billing.journal.settled(order.round, order.stage, order.question).intersection(places):
                tries[order.question] = 0
            elif order.question in vain:
                tries[order.question] += 1

    def _open(self, missing: _Missing, tries: Counter[str]) -> list[tuple[Batch, bytes]]:
        """Reserve money for as many batches as the caps allow, and record them.

        Raises ``LimitReached`` if the caps allow none.
        """
        opened: list[tuple[Batch, bytes]] = []
        for parcel in parcels(self._requests(missing, tries)):
            try:
                batch = self._book.open([(request.line, request.usd) for request in parcel])
            except LimitReached:
                if not opened:
                    raise
                break  # the rest is requested when these are done
            batch.changes = self.service.client.style.changes
            opened.append((batch, b"".join(request.data for request in parcel)))
        return opened

    def _requests(self, missing: _Missing, tries: Counter[str]) -> Iterator[Request]:
        endpoint, style, price = self.service.endpoint, self.service.client.style, self.service.price
        bound = most_tokens(style, self.billing.sampling)
        for order, places in missing:
            prompt = PromptBound.of([message["content"] for message in order.messages], self.service.added_tokens)
            for part in [places] if style.supports_n else [[place] for place in places]:
                line = Line(order.round, order.stage, order.question, tuple(part), order.version)
                seed = derive_seed("api", order.round, order.stage, order.question, part[0], tries[order.question])
                asked = body(endpoint, style, order.messages, len(part), self.billing.sampling, seed)
                data = encode_line(line, asked)
                usd = price.batch_share * worst_case(price, prompt, len(part), bound)
                yield Request(line, data, usd, len(data) + len(part) * bound * _BYTES_A_TOKEN)

    def _start(self, batch: Batch, data: bytes | None) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(self._job.run(batch, data))
        self._running[task] = batch
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[bool]) -> None:
        del self._running[task]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the error of a batch that no order waits for is ignored

    def _tell(self, batch: Batch | None = None) -> None:
        if self._watched is None or (batch is not None and batch.round != self._watched):
            return
        batches = [each for each in self._running.values() if each.round == self._watched]
        total, done = sum(len(each.items) for each in batches), sum(each.done for each in batches)
        if total and (total, done) != self._told:
            self._told = total, done
            name = f"waiting for a batch of {total} requests at {self.service.endpoint.name}"
            self.billing.emit(PhaseEvent(name=name, done=done, total=total))
