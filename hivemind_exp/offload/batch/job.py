"""One batch from start to end: submit, wait, collect, pay. Each step is in the ledger before the next one begins.

A node that dies in between finds the batch at its next start: by the id in the ledger, or, if it died before the
service returned an id, by our own tag in the service's listing. The ledger's tables for batches are defined here, too.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count
from typing import TypeVar

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.errors import KeyProblem, ProviderError
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.money import dollars
from hivemind_exp.offload.answers import BilledClient
from hivemind_exp.offload.api.batch import COMPLETED, OVER, BatchClient, Line, Report, read_results, unanswered
from hivemind_exp.offload.api.chat import ChatAnswer
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.ledger import BATCHED, Ledger, RequestKey, Reservation
from hivemind_exp.offload.router import FAULTS_IN_A_ROW, PERMANENT, ProviderService
from hivemind_exp.rollouts.types import CompletionRequest

LOOKS = 5
"""A batch or file counts as gone after the service has rejected this many requests for it in a row."""
_FETCHES = 3
"""Maximum number of times that result files with unreadable lines are fetched."""
_FIRST_POLL_S = 2.0
_LONGEST_POLL_S = 60.0
_SLOWER = 1.5
_LISTED_S = 60.0
"""A batch that the listing does not show this long after the request to start it was never started."""
_FULL_S = 60.0
"""Pause while the service's queue for this account is full."""
_T = TypeVar("_T")
_DAY = 86400
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS batch_jobs (
    tag TEXT PRIMARY KEY, provider TEXT, model TEXT, round INTEGER, stage TEXT, state TEXT, file TEXT, id TEXT, t REAL
    )""",
    """CREATE TABLE IF NOT EXISTS batch_lines (
    request INTEGER PRIMARY KEY, tag TEXT, places TEXT, version INTEGER
    )""",
)


class State(StrEnum):
    """A batch's state, as far as this node knows."""

    NEW = "new"
    """The money is reserved; the service has not been asked to start the batch."""
    ASKED = "asked"
    """The service was asked, or is about to be asked, to start it. Its listing shows whether it did."""
    RUNNING = "running"
    """The service returned an id."""
    OVER = "over"


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that are sent to a service together."""

    tag: str
    """Our own name for the batch, which the service keeps in its metadata."""
    round: int
    stage: str
    items: list[tuple[Line, Reservation]]
    """Each line and its reserve."""
    state: State = State.NEW
    file: str = ""
    id: str = ""
    asked: float = field(default_factory=time.time)
    """When the service was asked to start it (Unix seconds)."""
    done: int = 0
    """Requests answered so far, as the service reports."""
    changes: int = -1
    """``RequestDialect.changes`` when its lines were written; -1 for a batch of an earlier start."""


class BatchStore:
    """Stores the batches of one provider and model. Use it from the ledger's thread."""

    def __init__(self, ledger: Ledger, provider: str, model: str) -> None:
        """Create the tables in ``ledger`` if they are missing. Raises ``NodeError``."""
        self._ledger = ledger
        self._provider = provider
        self._model = model
        for statement in _SCHEMA:
            ledger.execute(statement)

    def open(self, lines: Sequence[tuple[Line, float]]) -> Batch:
        """Reserve the most that each line can cost and record the batch, all or nothing. Raises ``LimitReached``."""
        self._ledger.check(sum(usd for _, usd in lines), "batch")
        first = lines[0][0]
        batch = Batch(secrets.token_hex(16), first.round, first.stage, [])
        with self._ledger.transaction():
            self._ledger.execute(
                "INSERT INTO batch_jobs VALUES (?,?,?,?,?,?,'','',?)",
                (batch.tag, self._provider, self._model, batch.round, batch.stage, batch.state, batch.asked),
            )
            batch.items = [self._write(batch.tag, line, usd) for line, usd in lines]
        return batch

    def about_to_begin(self, batch: Batch, file: str) -> None:
        """Record that the service is about to be asked to start a batch."""
        batch.file, batch.asked = file, time.time()
        with self._ledger.transaction():
            self._update(batch, State.ASKED)

    def begun(self, batch: Batch, id: str) -> None:
        batch.id = id
        with self._ledger.transaction():
            self._update(batch, State.RUNNING)

    def over(self, batch: Batch) -> None:
        self._update(batch, State.OVER)

    def pending(self) -> list[Batch]:
        """Return this model's unfinished batches."""
        rows = self._ledger.execute(
            "SELECT tag, round, stage, state, file, id, t FROM batch_jobs "
            "WHERE provider=? AND model=? AND state!=? ORDER BY t",
            (self._provider, self._model, State.OVER),
        ).fetchall()
        return [
            Batch(tag, round_, stage, self._items(tag), State(state), file, id_, asked)
            for tag, round_, stage, state, file, id_, asked in rows
        ]

    def _items(self, tag: str) -> list[tuple[Line, Reservation]]:
        rows = self._ledger.execute(
            "SELECT id, t, round, stage, question, asked, reserved, places, version "
            "FROM batch_lines JOIN requests ON id=request WHERE tag=? AND state=? ORDER BY id",
            (tag, BATCHED),
        )
        return [
            (
                line := Line(round_, stage, question, tuple(json.loads(places)), version),
                Reservation(number, self._key(line, asked), reserved, int(t // _DAY), batched=True),
            )
            for number, t, round_, stage, question, asked, reserved, places, version in rows
        ]

    def _write(self, tag: str, line: Line, usd: float) -> tuple[Line, Reservation]:
        reservation = self._ledger.reserve(self._key(line, len(line.places)), usd, state=BATCHED)
        self._ledger.execute(
            "INSERT INTO batch_lines VALUES (?,?,?,?)",
            (reservation.number, tag, json.dumps(line.places), line.version),
        )
        return line, reservation

    def _key(self, line: Line, count: int) -> RequestKey:
        return RequestKey(self._provider, self._model, line.round, line.stage, line.question, count)

    def _update(self, batch: Batch, state: State) -> None:
        batch.state = state
        self._ledger.execute(
            "UPDATE batch_jobs SET state=?, file=?, id=?, t=? WHERE tag=?",
            (batch.state, batch.file, batch.id, batch.asked, batch.tag),
        )


def warn_of_orphans(ledger: Ledger, collected: tuple[str, str] | None, emit: Emit) -> None:
    """Warn about batches that this run will not collect. ``collected``: the provider and model that it does collect."""
    rows = ledger.execute(
        "SELECT provider, model, COUNT(*), TOTAL(reserved) FROM requests WHERE state=? GROUP BY provider, model "
        "ORDER BY provider, model",
        (BATCHED,),
    )
    for provider, model, requests, usd in rows.fetchall():
        if (provider, model) != collected:
            message = (
                f"requests of an earlier run still in batches at {provider}: {requests} ({dollars(usd)} reserved). "
                f"To collect them, use offload.provider={provider}, offload.model={model} and offload.batch=true."
            )
            emit(WarningEvent(code="batch_left", message=message))


@dataclass(slots=True, eq=False)
class BatchJob:
    """Handles one service's batches from start to end. Use it from one event loop."""

    service: ProviderService
    client: BatchClient
    book: BatchStore
    billing: BilledClient
    moved: Callable[[Batch], None]
    """Called when a batch has made progress."""
    faults: int = 0
    """Status requests in a row that failed."""

    async def run(self, batch: Batch, data: bytes | None = None) -> bool:
        """Handle a batch from start to end; return whether it counts as a try for slots that it did not fill.

        ``data``: the file of a new batch. Raises ``NodeError`` if the results cannot be fetched or saved.
        """
        if batch.state is not State.RUNNING and not await self._begin(batch, data):
            self.drop(batch, "the batch was never started")
            return False
        report = await self._wait_for_end(batch)
        results = {} if report is None else await self._results(report)
        if report is None:
            self._warn("batch_gone", f"no longer has batch {batch.id}; its whole reserve counts as spent")
            report = Report(batch.id, "gone")
        elif report.status != COMPLETED:
            self._tell_of_end(batch, report, results)
        return await self._settle(batch, report, results)

    def drop(self, batch: Batch, why: str) -> None:
        """Release the reserves of a batch that was never started."""
        for _, reservation in batch.items:
            self.billing.write_off(self.service, reservation, RequestFailed(FaultKind.BROKEN, why))
        self.book.over(batch)

    async def _begin(self, batch: Batch, data: bytes | None) -> bool:
        """Start a batch, only once. Return whether it was started."""
        if batch.state is State.ASKED and (report := await self._find(batch)) is not None:
            self.book.begun(batch, report.id)
            return True
        if data is None or (file := await self._upload(batch, data)) is None:
            return False
        for tries in count():
            self.book.about_to_begin(batch, file)
            report, sent = None, asyncio.get_running_loop().time()
            try:
                report = await self.client.create(file, batch.tag)
            except RequestFailed as fault:
                if fault.billed or fault.trouble is FaultKind.BUSY:
                    report = await self._find(batch)  # it may have been started despite the error
                if report is None and not await self._backoff(fault, tries):
                    return False
            if report is not None:
                self.billing.router.record_success(self.service, sent)
                self.book.begun(batch, report.id)
                self.moved(batch)
                break
        return True

    async def _upload(self, batch: Batch, data: bytes) -> str | None:
        for tries in count():
            try:
                return await self.client.upload(data, f"{batch.tag}.jsonl")
            except RequestFailed as fault:
                if not await self._backoff(fault, tries):
                    break
        return None

    async def _backoff(self, fault: RequestFailed, tries: int) -> bool:
        """Pause after a failure; return False if the service is down, so that another one is asked."""
        self.billing.router.record_failure(self.service, fault)
        if self.service.trouble is not None and fault.trouble is not FaultKind.SLOW_DOWN:
            return False
        await asyncio.sleep(_pause(fault, tries))
        return True

    async def _find(self, batch: Batch) -> Report | None:
        """Return the batch if the service started it. Listings may lag, so search for ``_LISTED_S``."""
        looks = 0
        while True:
            report = await self._retry_until_answered(lambda: self.client.find(batch.tag, batch.file, batch.asked))
            if report is not None or time.time() - batch.asked > _LISTED_S:
                return report
            await asyncio.sleep(_growing(looks))
            looks += 1

    async def _wait_for_end(self, batch: Batch) -> Report | None:
        """Return a batch's final report, or None if the service no longer has the batch."""
        looks = 0
        while True:
            report = await self._retry_until_answered(lambda: self.client.look(batch.id))
            if report is None or report.status in OVER:
                return report
            if report.done is not None and report.done != batch.done:
                batch.done = report.done
                self.moved(batch)
            await asyncio.sleep(_growing(looks))
            looks += 1

    async def _results(self, report: Report) -> dict[str, ChatAnswer | RequestFailed]:
        """Return the results in a batch's files. Files with unreadable lines are fetched again."""
        results: dict[str, ChatAnswer | RequestFailed] = {}
        for tries in range(_FETCHES):
            if tries:
                await asyncio.sleep(_growing(tries))
            spoilt = 0
            for file in report.files:
                content = await self._retry_until_answered(partial(self.client.fetch, file))
                if content is not None:
                    found, unread = read_results(content)
                    results, spoilt = self.client.joined_without_key(found) | results, spoilt + unread
            if not spoilt:
                break
        return results

    async def _retry_until_answered(self, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        """Retry until the service answers, since its results are paid for. None if what is requested counts as gone.

        Raises ``KeyProblem`` if the service rejects the API key.
        """
        tries = unknown = 0
        while True:
            try:
                found = await ask()
            except RequestFailed as fault:
                if fault.trouble is FaultKind.REFUSED:
                    told = f"{self.service.describe(fault)}; to collect its batches, set a key of the same account"
                    raise KeyProblem(told, next=self.service.endpoint.key_command) from None
                unknown = unknown + 1 if fault.trouble is FaultKind.BAD_REQUEST else 0
                if unknown >= LOOKS:
                    return None
                self.faults += 1
                if self.faults == FAULTS_IN_A_ROW:
                    text = f"does not return the status of its batches ({fault.detail}); waiting until it does"
                    self._warn("batch_unreachable", text)
                await asyncio.sleep(_pause(fault, tries))
                tries += 1
            else:
                if self.faults >= FAULTS_IN_A_ROW:
                    self._warn("batch_reachable", "returns the status of its batches again")
                self.faults = 0
                return found

    async def _settle(self, batch: Batch, report: Report, results: dict[str, ChatAnswer | RequestFailed]) -> bool:
        missing = unanswered(report, results.values())
        faults: list[RequestFailed] = []
        broken: ProviderError | None = None
        for line, reservation in batch.items:
            result = results.get(line.name, missing)
            if isinstance(result, RequestFailed):
                faults.append(result)
                self.billing.write_off(self.service, reservation, result)
                continue
            order = CompletionRequest(line.round, line.stage, line.question, (), line.places, line.version)
            try:
                self.billing.record(self.service, order, line.places, reservation, result)
            except ProviderError as error:
                broken = error  # raised below: the other lines are paid for and must be recorded first
        self.book.over(batch)
        if broken is not None:
            raise broken
        return await self._learn(batch, report, faults)

    async def _learn(self, batch: Batch, report: Report, faults: list[RequestFailed]) -> bool:
        """React to a batch's failures; return whether it counts as a try."""
        style = self.service.client.style
        unfit = {fault.detail for fault in faults if fault.trouble is FaultKind.BAD_REQUEST}
        if unfit and (batch.changes != style.changes or sum(style.adapt(detail) for detail in sorted(unfit))):
            return False
        if _is_full(report):
            await asyncio.sleep(_FULL_S)
            return False
        if len(faults) == len(batch.items):
            for fault in [fault for fault in faults if fault.trouble in PERMANENT][:1]:
                self.billing.router.record_failure(self.service, fault)
        return self.service.trouble is None

    def _tell_of_end(self, batch: Batch, report: Report, results: dict[str, ChatAnswer | RequestFailed]) -> None:
        if _is_full(report):
            if "batch_queue" in self.service.warned:
                return
            self.service.warned.add("batch_queue")
        answered = sum(isinstance(results.get(line.name), ChatAnswer) for line, _ in batch.items)
        why = f": {report.failure.detail}" if report.failure is not None else ""
        self._warn(
            f"batch_{report.status}",
            f"reports a batch as {report.status}{why}; {answered} of its {len(batch.items)} requests were answered, "
            "and the others will be sent again",
        )

    def _warn(self, code: str, text: str) -> None:
        self.billing.emit(self.service.warning(code, text))


def _is_full(report: Report) -> bool:
    """Whether the service rejected a batch because its queue is full."""
    return report.failure is not None and report.failure.trouble is FaultKind.SLOW_DOWN


def _growing(looks: int) -> float:
    return jittered(growing(looks, first=_FIRST_POLL_S, longest=_LONGEST_POLL_S, factor=_SLOWER), 0.25)


def _pause(fault: RequestFailed, tries: int) -> float:
    return _growing(tries) if fault.wait is None else fault.wait
