"""What becomes of an answer, however it was asked for: into the journal, paid, looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.chat import ChatAnswer, Choice, RequestFailed, SamplingParams
from hivemind_exp.offload.billing import BilledClient
from hivemind_exp.offload.ledger import RequestKey, Reservation
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.rollouts.orders import Completion, CompletionRequest
from hivemind_exp.rollouts.types import Kind


class AnswerRecorder:
    """Takes answers up. For one event loop."""

    def __init__(
        self,
        kind: Kind,
        sampling: SamplingParams,
        *,
        journal: Journal,
        billing: BilledClient,
        mismatches: ModelMismatchDetector,
    ) -> None:
        self._kind = kind
        self._sampling = sampling
        self._journal = journal
        self._billing = billing
        self._mismatches = mismatches

    def record(  # noqa: PLR0917 - a request, and what came of it
        self,
        service: ProviderService,
        order: CompletionRequest,
        places: Sequence[int],
        ask: RequestKey,
        reservation: Reservation,
        answer: ChatAnswer,
        *,
        batched: bool = False,
    ) -> int:
        """Fill places from an answer, in order, and pay for it; return how many were filled.

        Raises ``ProviderError`` where the service bills what it was not allowed.
        """
        usable = [choice for choice in answer.choices if choice.text.strip() and not choice.filtered][: len(places)]
        usd = self._billing.price(service, reservation, answer, batched=batched) / max(1, len(usable))
        # In the journal first: what was paid for must not be asked for again.
        self._journal.write_completions(
            order,
            [
                self._completion(order, service, answer, place, choice, usd)
                for place, choice in zip(places, usable, strict=False)
            ],
        )
        self._billing.settle(service, ask, reservation, answer, self._sampling, batched=batched)
        self._mismatches.look(service, answer, [choice.text for choice in usable])
        return len(usable)

    def give_up(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, tries: int) -> None:
        """Give places up after ``tries`` requests in a row that brought nothing."""
        self._lose(order, places, service, f"nothing usable from {service.endpoint.label} in {tries} requests")

    def reject(self, order: CompletionRequest, service: ProviderService, fault: RequestFailed) -> None:
        """Give up what is left of an order whose prompt a service does not take."""
        order.refused = True
        settled = self._journal.settled(order.round, order.stage, order.question)
        places = [place for place in order.indices if place not in settled]
        self._lose(order, places, service, f"{service.endpoint.label}: {fault.trouble} ({fault.detail})")
        self._mismatches.prompt_refused(service, fault)

    def _lose(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, why: str) -> None:
        self._journal.write_lost(order, places, why)
        self._billing.spending(order.round, service).lost += len(places)

    def _completion(  # noqa: PLR0917 - the fields of the record
        self,
        order: CompletionRequest,
        service: ProviderService,
        answer: ChatAnswer,
        place: int,
        choice: Choice,
        usd: float,
    ) -> Completion:
        return Completion(
            index=place,
            kind=self._kind,
            provider=service.endpoint.name,
            model=answer.model or service.endpoint.model,
            text=choice.text,
            truncated=choice.truncated,
            version=None if self._kind is Kind.POLICY_TEXT else order.version,
            usd=usd,
        )


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
            self._emit(WarningEvent(code=code, message=f"{service.endpoint.label} {text}"))


def _same(asked: str, told: str) -> bool:
    """Whether one name is the other, or a version of it: ``gpt-4o-2024-08-06`` of ``gpt-4o``; not ``gpt-4o-mini``."""
    short, long = sorted((asked, told), key=len)
    return re.fullmatch(rf"{re.escape(short)}([-@:](\d[\d.-]*|latest|free|v\d+))?", long) is not None


def _short(model: str) -> str:
    """Return a model's name without its owner: services add and drop it."""
    return model.rsplit("/", 1)[-1].lower()
