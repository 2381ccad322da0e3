"""One request and its answer: paid for under the caps, into the journal, looked at.

Dollars are reserved before a request goes out and settled when its answer comes back, however it was asked for.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.errors import ProviderError
from hivemind_exp.events import Emit
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.chat import ChatAnswer, FaultKind, RequestFailed, SamplingParams, most_tokens
from hivemind_exp.offload.ledger import Ledger, RequestKey, Reservation, worst_case
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Kind, Message, RoundSpend

_TOLERANCE = 1.05
"""A service that bills more than this over the bound does not keep it."""
ALIKE = 3
"""Groups in a row of equal completions, after which a server is said to ignore the temperature."""


@dataclass(slots=True, eq=False)
class BilledClient:
    """Sends requests, records what they bring and pays for it. For one event loop."""

    kind: Kind
    sampling: SamplingParams
    journal: Journal
    ledger: Ledger
    router: Router
    emit: Emit
    flying: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks whose request is in flight."""
    closing: bool = False
    """The node stops: nothing goes out any more."""
    spent: dict[int, dict[tuple[str, str], RoundSpend]] = field(default_factory=lambda: defaultdict(dict))
    """What each round used so far, by provider and model."""
    alike: int = 0
    """Groups in a row whose completions were equal."""

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
            headers = answer.headers
            if answer.usage is not None and not service.endpoint.chat.counts_maximum:
                used = answer.usage.prompt + answer.usage.completion
        except (RequestFailed, asyncio.CancelledError) as error:
            stopped = RequestFailed(FaultKind.TIMEOUT, "in flight when the node stopped", billed=True)
            fault = error if isinstance(error, RequestFailed) else stopped
            headers, slow_down = fault.headers, fault.trouble is FaultKind.SLOW_DOWN
            if reservation is not None:
                self.write_off(service, reservation, fault)
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
        known, length = service.tokens_a_choice, usage.completion / count
        service.tokens_a_choice = length if known is None else 0.9 * known + 0.1 * length
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
        spent = self.spending(reservation.key.round, service)
        spent.requests += 1
        spent.usd += usd
        return spent

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
        usd = self.price(service, reservation, answer) / max(1, len(usable))
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
        self.settle(service, reservation, answer, self.sampling)
        self.look(service, answer, [choice.text for choice in usable])
        return len(usable)

    def give_up(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, tries: int) -> None:
        """Give places up after ``tries`` requests in a row that brought nothing."""
        self._lose(order, places, service, f"nothing usable from {service.endpoint.label} in {tries} requests")

    def reject(self, order: CompletionRequest, service: ProviderService, fault: RequestFailed) -> None:
        """Give up what is left of an order whose prompt a service does not take."""
        order.refused = True
        self._lose(order, unfilled(self.journal, order), service, service.told(fault))
        text = f"does not take every prompt ({fault.detail}); such places stay empty"
        self._warn(service, "prompt_refused", text)

    def _lose(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, why: str) -> None:
        self.journal.write_lost(order, places, why)
        self.spending(order.round, service).lost += len(places)

    def look(self, service: ProviderService, answer: ChatAnswer, texts: list[str]) -> None:
        """Take up one answer; ``texts`` are its usable completions."""
        if answer.model and not _same(_short(service.endpoint.model), _short(answer.model)):
            self._warn(
                service, "another_model", f"was asked for {service.endpoint.model} and answers as {answer.model}"
            )
        if len(texts) > 1:
            self.alike = self.alike + 1 if len(set(texts)) == 1 else 0
        if self.alike >= ALIKE:
            self._warn(service, "greedy", "gives equal completions of one prompt: it seems to ignore the temperature")

    def _warn(self, service: ProviderService, code: str, text: str) -> None:
        if code not in service.warned:
            service.warned.add(code)
            self.emit(service.warning(code, text))


def _expected(service: ProviderService, contents: list[str], count: int, bound: int) -> float:
    """Return the tokens that a request will count as at the service's own limit."""
    prompt = sum(len(content.encode()) // 4 + 1 for content in contents)
    mean = service.tokens_a_choice
    return prompt + count * (bound if service.endpoint.chat.counts_maximum or mean is None else mean)


def _same(asked: str, told: str) -> bool:
    """Whether one name is the other, or a version of it: ``gpt-4o-2024-08-06`` of ``gpt-4o``; not ``gpt-4o-mini``."""
    short, long = sorted((asked, told), key=len)
    return re.fullmatch(rf"{re.escape(short)}([-@:](\d[\d.-]*|latest|free|v\d+))?", long) is not None


def _short(model: str) -> str:
    """Return a model's name without its owner: services add and drop it."""
    return model.rsplit("/", 1)[-1].lower()


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
