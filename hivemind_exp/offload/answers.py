"""What becomes of an answer, however it was asked for: into the journal, paid, looked at."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.chat import Answer, Choice, Fault, Sampling
from hivemind_exp.offload.billing import Exchange
from hivemind_exp.offload.ledger import Ask, Reservation
from hivemind_exp.offload.router import Service
from hivemind_exp.offload.suspicion import Suspicion
from hivemind_exp.rollouts.orders import Completion, Order
from hivemind_exp.rollouts.types import Kind


class Intake:
    """Takes answers up. For one event loop."""

    def __init__(
        self, kind: Kind, sampling: Sampling, *, journal: Journal, exchange: Exchange, suspicion: Suspicion
    ) -> None:
        self._kind = kind
        self._sampling = sampling
        self._journal = journal
        self._exchange = exchange
        self._suspicion = suspicion

    def take(  # noqa: PLR0917 - a request, and what came of it
        self,
        service: Service,
        order: Order,
        places: Sequence[int],
        ask: Ask,
        reservation: Reservation,
        answer: Answer,
        *,
        batched: bool = False,
    ) -> int:
        """Fill places from an answer, in order, and pay for it; return how many were filled.

        Raises ``ProviderError`` where the service bills what it was not allowed.
        """
        usable = [choice for choice in answer.choices if choice.text.strip() and not choice.filtered][: len(places)]
        usd = self._exchange.price(service, reservation, answer, batched=batched) / max(1, len(usable))
        # In the journal first: what was paid for must not be asked for again.
        self._journal.write_completions(
            order,
            [
                self._completion(order, service, answer, place, choice, usd)
                for place, choice in zip(places, usable, strict=False)
            ],
        )
        self._exchange.settle(service, ask, reservation, answer, self._sampling, batched=batched)
        self._suspicion.look(service, answer, [choice.text for choice in usable])
        return len(usable)

    def lose(self, order: Order, places: Sequence[int], service: Service, tries: int) -> None:
        """Give places up after ``tries`` requests in a row that brought nothing."""
        self._lose(order, places, service, f"nothing usable from {service.endpoint.label} in {tries} requests")

    def refuse(self, order: Order, service: Service, fault: Fault) -> None:
        """Give up what is left of an order whose prompt a service does not take."""
        order.refused = True
        settled = self._journal.settled(order.round, order.stage, order.question)
        places = [place for place in order.places if place not in settled]
        self._lose(order, places, service, f"{service.endpoint.label}: {fault.trouble} ({fault.detail})")
        self._suspicion.prompt_refused(service, fault)

    def _lose(self, order: Order, places: Sequence[int], service: Service, why: str) -> None:
        self._journal.write_lost(order, places, why)
        self._exchange.spending(order.round, service).lost += len(places)

    def _completion(  # noqa: PLR0917 - the fields of the record
        self, order: Order, service: Service, answer: Answer, place: int, choice: Choice, usd: float
    ) -> Completion:
        return Completion(
            place=place,
            kind=self._kind,
            provider=service.endpoint.name,
            model=answer.model or service.endpoint.model,
            text=choice.text,
            truncated=choice.truncated,
            version=None if self._kind is Kind.POLICY_TEXT else order.version,
            usd=usd,
        )
