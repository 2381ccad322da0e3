"""One request and its bill: reserved before it goes out, settled when it comes back, under the caps at every moment."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload.api.chat import ChatAnswer, FaultKind, RequestFailed, SamplingParams, most_tokens
from hivemind_exp.offload.ledger import Ledger, RequestKey, Reservation, worst_case
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.rollouts.orders import RoundSpend
from hivemind_exp.rollouts.types import Message

_TOLERANCE = 1.05
"""A service that bills more than this over the bound does not keep it."""


@dataclass(slots=True, eq=False)
class BilledClient:
    """Sends requests and keeps the accounts. For one event loop."""

    ledger: Ledger
    router: Router
    flying: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks whose request is in flight."""
    closing: bool = False
    """The node stops: nothing goes out any more."""
    spent: dict[int, dict[tuple[str, str], RoundSpend]] = field(default_factory=lambda: defaultdict(dict))
    """What each round used so far, by provider and model."""

    async def send(
        self,
        service: ProviderService,
        ask: RequestKey,
        messages: tuple[Message, ...],
        sampling: SamplingParams,
        *,
        seed: int,
    ) -> tuple[ChatAnswer, Reservation]:
        """Send one request. The reservation of an answer is still to be settled.

        Raises ``RequestFailed`` and ``LimitReached``.
        """
        bound = most_tokens(service.endpoint, sampling)
        contents = [message["content"] for message in messages]
        most = worst_case(service.price, contents, ask.count, bound)
        self.ledger.check(most)
        passed = await service.limiter.acquire(lambda: _expected(service, contents, ask.count, bound), ask.round)
        task = asyncio.current_task()
        assert task is not None
        self.flying.add(task)
        headers: Mapping[str, str] = {}
        slow_down, used = False, None
        reservation: Reservation | None = None
        try:
            if self.closing:
                raise asyncio.CancelledError
            reservation = self.ledger.reserve(ask, most)
            answer = await service.client.ask(messages, ask.count, sampling, seed)
            headers, used = answer.headers, _used(service, answer)
        except RequestFailed as fault:
            headers, slow_down = fault.headers, fault.trouble is FaultKind.SLOW_DOWN
            if reservation is not None:
                self.write_off(service, reservation, fault)
            raise
        except asyncio.CancelledError:
            if reservation is not None:
                stopped = RequestFailed(FaultKind.TIMEOUT, "in flight when the node stopped", billed=True)
                self.write_off(service, reservation, stopped)
            raise
        finally:
            self.flying.discard(task)
            service.limiter.release(passed, headers, slow_down=slow_down, used=used)
        self.router.record_success(service)
        return answer, reservation

    def settle(
        self, service: ProviderService, reservation: Reservation, answer: ChatAnswer, sampling: SamplingParams
    ) -> None:
        """Pay for an answer. Raises ``ProviderError`` where the service bills what it was not allowed."""
        usage, count = answer.usage, reservation.key.count
        usd = self.price(service, reservation, answer)
        spent = self._charge(service, reservation, usd)
        if usage is None:
            self.ledger.keep(reservation, "the service did not say what it used")
            return
        self.ledger.settle(reservation, usage, usd)
        spent.prompt_tokens += usage.prompt
        spent.completion_tokens += usage.completion
        service.learn_length(usage.completion / count)
        bound = count * most_tokens(service.endpoint, sampling)
        if usage.completion > _TOLERANCE * bound and not service.price.free and self.ledger.capped:
            raise ProviderError(
                f"{service.endpoint.label} bills {usage.completion} tokens for a request that allowed {bound}: its "
                "hidden reasoning is not bounded, so no cap can be kept",
                next="swarmctl run --set offload.limits.usd=unlimited",
            )

    def price(self, service: ProviderService, reservation: Reservation, answer: ChatAnswer) -> float:
        """Return dollars that an answer costs; its whole reserve where the service does not say what it used."""
        if answer.usage is None:
            return reservation.usd
        return service.price.cost_in_batch(answer.usage) if reservation.batched else service.price.cost(answer.usage)

    def spending(self, round_: int, service: ProviderService) -> RoundSpend:
        """Return the account of a round with one provider, to be added to."""
        return self.spent[round_].setdefault((service.endpoint.name, service.endpoint.model), RoundSpend())

    def write_off(self, service: ProviderService, reservation: Reservation, fault: RequestFailed) -> None:
        """Book a request that brought nothing: it costs nothing, or nobody knows what."""
        if not fault.billed:
            self.ledger.release(reservation, fault.detail)
            return
        self.ledger.keep(reservation, fault.detail)
        self._charge(service, reservation, reservation.usd)

    def _charge(self, service: ProviderService, reservation: Reservation, usd: float) -> RoundSpend:
        """Count a request and its dollars, and return the account."""
        spent = self.spending(reservation.key.round, service)
        spent.requests += 1
        spent.usd += usd
        return spent


def _expected(service: ProviderService, contents: list[str], count: int, bound: int) -> float:
    """Return the tokens that a request will count as at the service's own limit."""
    prompt = sum(len(content.encode()) // 4 + 1 for content in contents)
    mean = service.tokens_a_choice
    return prompt + count * (bound if service.endpoint.chat.counts_maximum or mean is None else mean)


def _used(service: ProviderService, answer: ChatAnswer) -> float | None:
    """Return the tokens that a request did count as; None where what it might have used is what counts."""
    if answer.usage is None or service.endpoint.chat.counts_maximum:
        return None
    return answer.usage.prompt + answer.usage.completion
