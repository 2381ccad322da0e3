"""What becomes of an answer, however it was asked for: into the journal, paid, looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from hivemind_exp.events import Emit
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.chat import ChatAnswer, RequestFailed, SamplingParams
from hivemind_exp.offload.billing import BilledClient
from hivemind_exp.offload.ledger import Reservation
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.rollouts.orders import Completion, CompletionRequest
from hivemind_exp.rollouts.types import Kind


@dataclass(frozen=True, slots=True)
class AnswerRecorder:
    """Takes answers up. For one event loop."""

    kind: Kind
    sampling: SamplingParams
    journal: Journal
    billing: BilledClient
    mismatches: ModelMismatchDetector

    def record(
        self,
        service: ProviderService,
        order: CompletionRequest,
        places: Sequence[int],
        reservation: Reservation,
        answer: ChatAnswer,
    ) -> int:
        """Fill places from an answer, in order, and pay for it; return how many were filled.

        Raises ``ProviderError`` where the service bills what it was not allowed.
        """
        usable = [choice for choice in answer.choices if choice.text.strip() and not choice.filtered][: len(places)]
        usd = self.billing.price(service, reservation, answer) / max(1, len(usable))
        completions = [
            Completion(
                index=place,
                kind=self.kind,
                provider=service.endpoint.name,
                model=answer.model or service.endpoint.model,
                text=choice.text,
                truncated=choice.truncated,
                version=None if self.kind is Kind.POLICY_TEXT else order.version,
                usd=usd,
            )
            for place, choice in zip(places, usable, strict=False)
        ]
        # In the journal first: what was paid for must not be asked for again.
        self.journal.write_completions(order, completions)
        self.billing.settle(service, reservation, answer, self.sampling)
        self.mismatches.look(service, answer, [choice.text for choice in usable])
        return len(usable)

    def give_up(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, tries: int) -> None:
        """Give places up after ``tries`` requests in a row that brought nothing."""
        self._lose(order, places, service, f"nothing usable from {service.endpoint.label} in {tries} requests")

    def reject(self, order: CompletionRequest, service: ProviderService, fault: RequestFailed) -> None:
        """Give up what is left of an order whose prompt a service does not take."""
        order.refused = True
        self._lose(order, unfilled(self.journal, order), service, service.told(fault))
        self.mismatches.prompt_refused(service, fault)

    def _lose(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, why: str) -> None:
        self.journal.write_lost(order, places, why)
        self.billing.spending(order.round, service).lost += len(places)


def unfilled(journal: Journal, order: CompletionRequest) -> list[int]:
    """Return the places of an order that are neither filled nor given up."""
    settled = journal.settled(order.round, order.stage, order.question)
    return [place for place in order.indices if place not in settled]


@contextmanager
def ending(*futures: Future[None]) -> Iterator[None]:
    """End ``futures`` with the block: done, cancelled, or with what it raised, which the trainer's thread raises."""
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


ALIKE = 3
"""Groups in a row of equal completions, after which a server is said to ignore the temperature."""


class ModelMismatchDetector:
    """Looks at answers, and warns of a server that answers as another model or samples greedily."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._alike = 0

    def look(self, service: ProviderService, answer: ChatAnswer, texts: list[str]) -> None:
        """Take up one answer; ``texts`` are its usable completions."""
        if answer.model and not _same(_short(service.endpoint.model), _short(answer.model)):
            self._warn(
                service, "another_model", f"was asked for {service.endpoint.model} and answers as {answer.model}"
            )
        if len(texts) > 1:
            self._alike = self._alike + 1 if len(set(texts)) == 1 else 0
        if self._alike >= ALIKE:
            self._warn(service, "greedy", "gives equal completions of one prompt: it seems to ignore the temperature")

    def prompt_refused(self, service: ProviderService, fault: RequestFailed) -> None:
        """Tell that a service does not take every prompt."""
        self._warn(service, "prompt_refused", f"does not take every prompt ({fault.detail}); such places stay empty")

    def _warn(self, service: ProviderService, code: str, text: str) -> None:
        if code not in service.warned:
            service.warned.add(code)
            self._emit(service.warning(code, text))


def _same(asked: str, told: str) -> bool:
    """Whether one name is the other, or a version of it: ``gpt-4o-2024-08-06`` of ``gpt-4o``; not ``gpt-4o-mini``."""
    short, long = sorted((asked, told), key=len)
    return re.fullmatch(rf"{re.escape(short)}([-@:](\d[\d.-]*|latest|free|v\d+))?", long) is not None


def _short(model: str) -> str:
    """Return a model's name without its owner: services add and drop it."""
    return model.rsplit("/", 1)[-1].lower()
