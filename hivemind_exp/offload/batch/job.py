"""The life of one batch: submitted, waited for, collected, paid. Each step is in the ledger before the next is taken.

A node that dies in between finds the batch again at its next start: by the id in the ledger, or, where it died before
the service had given one, by our own tag in the service's listing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TypeVar

from hivemind_exp.backoff import growing, jittered
from hivemind_exp.errors import KeyProblem, ProviderError
from hivemind_exp.events import Emit
from hivemind_exp.offload.answers import AnswerRecorder
from hivemind_exp.offload.api.batch import COMPLETED, OVER, BatchClient, Report, read_results, unanswered
from hivemind_exp.offload.api.chat import ChatAnswer, FaultKind, RequestFailed
from hivemind_exp.offload.batch.store import Batch, BatchStore, State
from hivemind_exp.offload.router import FAULTS_IN_A_ROW, ProviderService, Router
from hivemind_exp.rollouts.types import CompletionRequest

LOOKS = 5
"""Times in a row that a service must say it does not know a batch or a file, before that is believed."""
_FETCHES = 3
"""Times that a file of results is read which cannot be understood whole."""
_FIRST_POLL_S = 2.0
_LONGEST_POLL_S = 60.0
_SLOWER = 1.5
_LISTED_S = 60.0
"""A batch that a listing does not show so long after it was asked for was never begun."""
_FULL_S = 60.0
"""Pause where the service's queue for this account is full."""
_LASTING = (FaultKind.REFUSED, FaultKind.NO_CREDIT, FaultKind.BAD_REQUEST)
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class BatchJob:
    """Sees batches of one service through. For one event loop."""

    service: ProviderService
    client: BatchClient
    book: BatchStore
    recorder: AnswerRecorder
    router: Router
    emit: Emit
    moved: Callable[[Batch], None]
    """Called when a batch got further."""
    faults: int = 0
    """Questions about batches, in a row, that the service did not answer."""

    async def run(self, batch: Batch, data: bytes | None = None) -> bool:
        """See a batch through; return whether it counts as a try of what it brought nothing for.

        ``data``: its file, for one that is new. Raises ``NodeError`` where its results cannot be had or not be kept.
        """
        if batch.state is not State.RUNNING and not await self._begin(batch, data):
            self.drop(batch, "the batch was never begun")
            return False
        report = await self._wait_for_end(batch)
        results = {} if report is None else await self._results(report)
        if report is None:
            self._warn("batch_gone", f"does not know the batch {batch.id} any more: what it may have cost stays spent")
            report = Report(batch.id, "gone")
        elif report.status != COMPLETED:
            self._tell_of_end(batch, report, results)
        return await self._settle(batch, report, results)

    def drop(self, batch: Batch, why: str) -> None:
        """Give back what was set aside for a batch that no service has."""
        for item in batch.items:
            self.recorder.billing.write_off(self.service, item.reservation, RequestFailed(FaultKind.BROKEN, why))
        self.book.over(batch)

    async def _begin(self, batch: Batch, data: bytes | None) -> bool:
        """Have a batch begun, once. Returns False where it is not."""
        if batch.state is State.ASKED and (report := await self._find(batch)) is not None:
            self.book.begun(batch, report.id)
            return True
        if data is None or (file := await self._upload(batch, data)) is None:
            return False
        tries = 0
        while True:
            self.book.about_to_begin(batch, file)
            report = None
            try:
                report = await self.client.create(file, batch.tag)
            except RequestFailed as fault:
                if fault.billed or fault.trouble is FaultKind.BUSY:
                    report = await self._find(batch)  # it may have been begun all the same
                if report is None and not await self._backoff(fault, tries):
                    return False
            if report is not None:
                self.router.record_success(self.service)
                self.book.begun(batch, report.id)
                self.moved(batch)
                return True
            tries += 1

    async def _upload(self, batch: Batch, data: bytes) -> str | None:
        for tries in count():
            try:
                return await self.client.upload(data, f"{batch.tag}.jsonl")
            except RequestFailed as fault:
                if not await self._backoff(fault, tries):
                    break
        return None

    async def _backoff(self, fault: RequestFailed, tries: int) -> bool:
        """Pause after a fault; False where the service is out of order, so that another is asked."""
        self.router.record_failure(self.service, fault)
        if self.service.trouble is not None and fault.trouble is not FaultKind.SLOW_DOWN:
            return False
        await asyncio.sleep(_pause(fault, tries))
        return True

    async def _find(self, batch: Batch) -> Report | None:
        """Return the batch if the service was made to begin it. Listings may lag: it is looked for more than once."""
        looks = 0
        while True:
            report = await self._retry_until_answered(lambda: self.client.find(batch.tag, batch.file, batch.asked))
            if report is not None or time.time() - batch.asked > _LISTED_S:
                return report
            await asyncio.sleep(_growing(looks))
            looks += 1

    async def _wait_for_end(self, batch: Batch) -> Report | None:
        """Return the last report of a batch; None where the service does not know it."""
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
        """Return what the files of a batch hold. One that is cut or no such file at all is read again."""
        results: dict[str, ChatAnswer | RequestFailed] = {}
        for tries in range(_FETCHES):
            if tries:
                await asyncio.sleep(_growing(tries))
            spoilt = 0
            for file in report.files:
                content = await self._retry_until_answered(partial(self.client.fetch, file))
                if content is not None:
                    found, unread = read_results(content)
                    results, spoilt = found | results, spoilt + unread
            if not spoilt:
                break
        return results

    async def _retry_until_answered(self, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        """Ask until the service answers: what it holds is paid for. None where it does not know what is asked for."""
        tries = unknown = 0
        while True:
            try:
                found = await ask()
            except RequestFailed as fault:
                if fault.trouble is FaultKind.REFUSED:
                    told = f"{self.service.told(fault)}; its batches wait for a key of the same account"
                    raise KeyProblem(told, next=f"swarmctl keys set {self.service.endpoint.name}") from None
                unknown = unknown + 1 if fault.trouble is FaultKind.BAD_REQUEST else 0
                if unknown >= LOOKS:
                    return None
                self.faults += 1
                if self.faults == FAULTS_IN_A_ROW:
                    text = f"does not tell of its batches ({fault.detail}); waiting until it does"
                    self._warn("batch_unreachable", text)
                await asyncio.sleep(_pause(fault, tries))
                tries += 1
            else:
                if self.faults >= FAULTS_IN_A_ROW:
                    self._warn("batch_reachable", "tells of its batches again")
                self.faults = 0
                return found

    async def _settle(self, batch: Batch, report: Report, results: dict[str, ChatAnswer | RequestFailed]) -> bool:
        """Take up what came of each line, and pay for it."""
        missing = unanswered(report, results.values())
        faults: list[RequestFailed] = []
        broken: ProviderError | None = None
        for item in batch.items:
            result = results.get(item.line.name, missing)
            if isinstance(result, RequestFailed):
                faults.append(result)
                self.recorder.billing.write_off(self.service, item.reservation, result)
                continue
            line = item.line
            order = CompletionRequest(line.round, line.stage, line.question, (), line.places, line.version)
            try:
                self.recorder.record(self.service, order, line.places, item.reservation, result)
            except ProviderError as error:
                broken = error  # the other lines are paid for as well
        self.book.over(batch)
        if broken is not None:
            raise broken
        return await self._learn(batch, report, faults)

    async def _learn(self, batch: Batch, report: Report, faults: list[RequestFailed]) -> bool:
        """Do what the faults of a batch call for; return whether it counts as a try."""
        style = self.service.client.style
        unfit = {fault.detail for fault in faults if fault.trouble is FaultKind.BAD_REQUEST}
        if unfit and (batch.changes != style.changes or sum(style.adapt(detail) for detail in sorted(unfit))):
            return False
        if _is_full(report):
            await asyncio.sleep(_FULL_S)
            return False
        if len(faults) == len(batch.items):
            for fault in [fault for fault in faults if fault.trouble in _LASTING][:1]:
                self.router.record_failure(self.service, fault)
        return self.service.trouble is None

    def _tell_of_end(self, batch: Batch, report: Report, results: dict[str, ChatAnswer | RequestFailed]) -> None:
        if _is_full(report):
            if "batch_queue" in self.service.warned:
                return
            self.service.warned.add("batch_queue")
        answered = sum(isinstance(results.get(item.line.name), ChatAnswer) for item in batch.items)
        why = f": {report.failure.detail}" if report.failure is not None else ""
        self._warn(
            f"batch_{report.status}",
            f"says that a batch is {report.status}{why}; {answered} of its {len(batch.items)} requests were answered, "
            "the others are asked again",
        )

    def _warn(self, code: str, text: str) -> None:
        self.emit(self.service.warning(code, text))


def _is_full(report: Report) -> bool:
    """Whether the service took a batch for one too many at a time."""
    return report.failure is not None and report.failure.trouble is FaultKind.SLOW_DOWN


def _growing(looks: int) -> float:
    return jittered(growing(looks, first=_FIRST_POLL_S, longest=_LONGEST_POLL_S, factor=_SLOWER), 0.25)


def _pause(fault: RequestFailed, tries: int) -> float:
    return fault.wait if fault.wait is not None else _growing(tries)
