"""Sends one request and handles its answer: billing under the caps, writing to the journal, plausibility checks.

Dollars are reserved before a request is sent and settled when its answer arrives. Batches use the same billing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from hivemind_exp.errors import ProviderError
from hivemind_exp.events import Emit
from hivemind_exp.foreign_text import foreign
from hivemind_exp.journal.journal import Journal
from hivemind_exp.model_names import same_model, short_name
from hivemind_exp.money import dollars
from hivemind_exp.offload.api.chat import ChatAnswer
from hivemind_exp.offload.api.dialect import PLAIN, SamplingParams, most_tokens
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.api.scoring import ScoreAnswer
from hivemind_exp.offload.api_requests import ApiRequest
from hivemind_exp.offload.ledger import Ledger, RequestKey, Reservation
from hivemind_exp.offload.prices import PromptBound, Usage
from hivemind_exp.offload.router import ProviderService, Router
from hivemind_exp.offload.shared_requests import SharedRequests
from hivemind_exp.offload.unscored import LEARN_FROM_ANSWERS, WITHOUT_SCORES, cannot_score
from hivemind_exp.offload.unusable import TEST_QUESTION, text_shortcoming, unusable
from hivemind_exp.rollouts.types import Completion, CompletionRequest, RoundSpend
from hivemind_exp.source_kinds import Kind

_TOLERANCE = 1.05
"""A service that bills more than this factor times the limit does not respect the limit."""
_WRITTEN = 16
"""Completions of a teacher after which it is clear how much of its text is hidden."""
_LONG_THOUGHT = 64
"""Tokens of hidden reasoning per completion from which a task needs reasoning. Models think a little about anything."""
_CHARACTERS_A_TOKEN = 4
"""For texts whose tokens a service does not count separately from its hidden reasoning."""
ALIKE = 3
"""Warn that a server seems to ignore the temperature after this many groups in a row with identical completions."""

Answer = TypeVar("Answer", bound=ChatAnswer)


@dataclass(slots=True, eq=False)
class BilledClient:
    """Sends requests, records the answers and their cost. Use it from one event loop."""

    kind: Kind
    sampling: SamplingParams
    journal: Journal
    ledger: Ledger
    router: Router
    emit: Emit
    shared: SharedRequests
    alike: int = 0
    """Groups in a row with identical completions."""

    async def send(
        self,
        service: ProviderService,
        ask: RequestKey,
        request: ApiRequest[Answer],
    ) -> tuple[Answer, Reservation]:
        """Send one request; return its answer and its reservation, which the caller must settle.

        Raises ``RequestFailed`` and ``LimitReached``.
        """
        bound = request.longest(service.client.style)
        self.ledger.check(service.most(request.prompt(service.added_tokens), ask.count, bound))
        passed = await service.limiter.acquire(
            lambda: _expected(service, request.usual_prompt(), ask.count, bound), ask.round
        )
        task = asyncio.current_task()
        assert task is not None
        self.shared.flying.add(task)
        headers: Mapping[str, str] = {}
        slow_down, used, sent = False, None, None
        reservation: Reservation | None = None
        try:
            if self.shared.closing:
                raise asyncio.CancelledError
            if self.shared.uncapped is not None:
                raise self.shared.uncapped
            if service.set_aside:
                raise RequestFailed(FaultKind.USELESS, "no longer used", sent=False)
            # Only now, because more becomes known while a request waits.
            prompt, bound = request.prompt(service.added_tokens), request.longest(service.client.style)
            most = service.most(prompt, ask.count, bound)
            reservation = self.ledger.reserve(ask, most, prompt=prompt, completion=bound)
            sent = asyncio.get_running_loop().time()
            answer = await request.send(service.client)
            headers = answer.headers
            if answer.usage is not None and not service.endpoint.chat.counts_maximum:
                used = answer.usage.prompt + answer.usage.completion
        except (RequestFailed, asyncio.CancelledError) as error:
            stopped = RequestFailed(FaultKind.TIMEOUT, "in flight when the node stopped", billed=True)
            fault = error if isinstance(error, RequestFailed) else stopped
            headers, slow_down, fault.sent_at = fault.headers, fault.trouble is FaultKind.SLOW_DOWN, sent
            if reservation is not None:
                self.write_off(service, reservation, fault)
            raise
        finally:
            self.shared.flying.discard(task)
            service.limiter.release(passed, headers, slow_down=slow_down, used=used)
        self.router.record_success(service, sent)
        return answer, reservation

    def record_cost(
        self, service: ProviderService, reservation: Reservation, answer: ChatAnswer, sampling: SamplingParams
    ) -> None:
        """Record an answer's cost. Raises ``ProviderError`` if it bills more tokens than the request allowed."""
        usage, count = answer.usage, reservation.key.count
        usd = self.price(service, reservation, answer)
        spent = self._charge(service, reservation, usd)
        if usage is None:
            text = "does not say how many tokens a request used, so its whole reserve counts as spent"
            self.ledger.keep(reservation, text)
            if not service.price.free:
                self._warn(service, "no_usage", text)
            return
        self.ledger.settle(reservation, usage, usd)
        spent.prompt_tokens += usage.prompt
        spent.completion_tokens += usage.completion
        if reservation.key.round >= 0:  # the test request's answer is unusually short
            known, length = service.tokens_a_choice, usage.completion / count
            service.tokens_a_choice = length if known is None else 0.9 * known + 0.1 * length
        self._learn_surcharge(service, usage, usd)
        self._learn_added_tokens(service, reservation.prompt, usage.prompt)
        bound = count * (reservation.completion or most_tokens(service.client.style, sampling))
        self._learn_reasoning(service, answer, sampling)
        if reservation.key.round >= 0 and self.kind is Kind.TEACHER and self.sampling.answers:
            self._count_hidden(service, answer, usage)
        if usage.completion > _TOLERANCE * bound and not service.price.free and self.ledger.capped:
            self._end(
                f"{service.label} billed {usage.completion} tokens for a request limited to {bound}: its "
                "hidden reasoning has no limit"
            )

    def _learn_reasoning(self, service: ProviderService, answer: ChatAnswer, sampling: SamplingParams) -> None:
        """From now on, allow tokens for hidden reasoning if the model uses it."""
        style = service.client.style
        if answer.reasoned and not style.reasons:
            style.reasons = True
            style.changes += 1
            self._warn(
                service,
                "reasons",
                f"reasons before it answers, so each completion may use {sampling.reasoning_tokens} more tokens "
                f"(offload.reasoning_tokens){'' if service.price.free else ', which cost money, too'}",
            )

    def _count_hidden(self, service: ProviderService, answer: ChatAnswer, usage: Usage) -> None:
        """Warn about a teacher that keeps most of what it writes to itself: its task needs reasoning."""
        visible = sum(-(-len(choice.text) // _CHARACTERS_A_TOKEN) for choice in answer.choices)
        reasoned = answer.reasoned and not usage.reasoning  # not counted separately
        hidden = max(0, usage.completion - visible) if reasoned else usage.reasoning
        service.written += len(answer.choices)
        service.hidden_tokens += hidden
        service.visible_tokens += usage.completion - hidden
        mean = service.hidden_tokens / max(1, service.written)
        if service.written >= _WRITTEN and mean >= _LONG_THOUGHT and service.hidden_tokens > service.visible_tokens:
            self._warn(
                service,
                "hidden_reasoning",
                f"reasons for about {mean:.0f} tokens per completion and hides them, so this node learns the "
                "answers without the reasoning. If your task needs reasoning, choose a model that writes it into its "
                "answer (offload.model), or set offload.reasoning_effort=none",
            )

    def _learn_surcharge(self, service: ProviderService, usage: Usage, usd: float) -> None:
        """From now on, reserve in proportion to what a service charges beyond its listed price."""
        listed = service.price.listed_cost(usage)
        if listed > 0 and usd > _TOLERANCE * service.surcharge * listed:
            service.surcharge = usd / listed
            text = (
                f"charged {dollars(usd)} for a request that costs {dollars(listed)} at the price known to this node. "
                "What it charges counts, and reserves are raised in proportion"
            )
            self._warn(service, "surcharge", text)

    def _learn_added_tokens(self, service: ProviderService, bound: PromptBound | None, billed: int) -> None:
        """Reserve, from now on, what a service adds to prompts and bills.

        Raises ``ProviderError`` if it bills more than what earlier answers showed.
        """
        if bound is None or billed - bound.sent <= service.added_tokens:
            return
        service.added_tokens = billed - bound.least
        if service.price.free:
            return
        self._warn(
            service,
            "added_prompt",
            f"bills {billed} tokens for a prompt of at most {bound.sent}: it adds text of its own. Reserves include it "
            "from now on",
        )
        if bound.added and billed > _TOLERANCE * bound.tokens and self.ledger.capped:
            self._end(
                f"{service.label} billed {billed} tokens for a prompt of at most {bound.sent}, although it "
                f"added at most {bound.added} before: what it adds has no limit"
            )

    def _end(self, why: str) -> NoReturn:
        """Send no more requests, because a cap would be exceeded. Raises ``ProviderError``."""
        message = f"{why}, so no spending cap can be enforced"
        self.shared.uncapped = ProviderError(message, next="swarmctl run --set offload.limits.usd=unlimited")
        raise self.shared.uncapped

    def price(self, service: ProviderService, reservation: Reservation, answer: ChatAnswer) -> float:
        """Return an answer's cost in dollars; its whole reserve if the service reports no usage."""
        if answer.usage is None:
            return reservation.usd
        if reservation.batched:
            return service.price.cost_in_batch(answer.usage)
        return service.price.cost(answer.usage, tier=answer.service_tier)

    def spending(self, round_: int, service: ProviderService) -> RoundSpend:
        """Return a round's spending record for one service, created if needed, for the caller to update."""
        return self.shared.spent[round_].setdefault((service.endpoint.name, service.endpoint.model), RoundSpend())

    def write_off(self, service: ProviderService, reservation: Reservation, fault: RequestFailed) -> None:
        """Record the cost of a failed request: nothing, or its whole reserve if the service may have billed it."""
        if not fault.billed:
            self.ledger.release(reservation, fault.detail)
            return
        self.ledger.keep(reservation, fault.detail)
        self._charge(service, reservation, reservation.usd)
        lost_batch = reservation.batched and fault.status is None  # which has a warning of its own
        if reservation.key.round >= 0 and not service.price.free and not self.shared.closing and not lost_batch:
            told = "may bill requests that fail like this, so their whole reserve counts as spent"
            self._warn(service, "error_billed", f"{told}: {fault.detail}")

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
        """Fill slots from an answer, in order, and record its cost; return how many were filled.

        Raises ``ProviderError`` if the service bills more tokens than the request allowed.
        """
        usable = [choice for choice in answer.choices if choice.usable][: len(places)]
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
        # Write to the journal first, so that a completion that was paid for is never requested again.
        self.journal.write_completions(order, completions)
        order.settled += len(completions)
        self.note_text(service, answer)
        self.record_cost(service, reservation, answer, self.sampling)
        self.look(service, answer, [choice.text for choice in usable])
        return len(usable)

    def record_scores(
        self, service: ProviderService, order: CompletionRequest, reservation: Reservation, answer: ScoreAnswer
    ) -> None:
        """Fill or give up an order for scores, and record its cost. The same request again would bring the same.

        Raises ``ProviderError`` if the service bills more tokens than the request allowed, or if the order is a test
        and was not scored.
        """
        model = answer.model or service.endpoint.model
        if answer.logps is None:
            self._lose(order, (0,), service, answer.problem)
        else:
            usd = self.price(service, reservation, answer)
            about = (0, self.kind, service.endpoint.name, model)
            made = Completion(*about, text="", truncated=False, version=order.version, usd=usd, logps=answer.logps)
            self.journal.write_completions(order, [made])
        self.record_cost(service, reservation, answer, self.sampling)
        fault = None
        if answer.logps is None:
            if order.round < 0:
                raise cannot_score(service, answer.problem)
            text = f"sent no usable scores: {answer.problem}. {WITHOUT_SCORES}"
            self._warn(service, "unusable_scores", text)
            fault = RequestFailed(FaultKind.USELESS, f"{answer.problem}. {WITHOUT_SCORES}", next=LEARN_FROM_ANSWERS)
        self.router.record_text(service, fault)
        self.look(service, answer, [])

    def note_text(self, service: ProviderService, answer: ChatAnswer) -> None:
        """Warn about an answer without a usable text. A service that sends nothing else counts as down."""
        problem = unusable(answer, service.client.style, self.sampling, service.endpoint.name)
        fault = None
        if problem is not None:
            text = f"sent an answer without a usable text: {problem}. {problem.advice}"
            self._warn(service, "unusable_text", text, key=problem.what)
            fault = RequestFailed(FaultKind.USELESS, f"{problem}. {problem.advice}", next=problem.command)
        self.router.record_text(service, fault)

    def note_test(self, service: ProviderService, answer: ChatAnswer) -> None:
        """Warn if the text of the test request's answer is cut or lacks the tags that the prompt asks for."""
        texts = [choice for choice in answer.choices if choice.usable]
        problem = text_shortcoming(texts[0], self.sampling, service.endpoint.name) if texts else None
        if problem is not None and not self.kind.own:
            self._warn(service, "test_answer", f"answered {TEST_QUESTION}, but {problem}. {problem.advice}")

    def note_dropped(self, service: ProviderService) -> None:
        """Warn if the service rejects a parameter that someone set.

        Raises ``ProviderError`` if it does not switch off reasoning that has no limit.
        """
        sampling, rejected = self.sampling, service.client.style.unsupported_params
        values = {"reasoning_effort": sampling.reasoning_effort, "service_tier": sampling.service_tier}
        values |= {name: f"{value:g}" if sampling.plain else None for name, value in PLAIN.items()}
        values["temperature"] = None if sampling.temperature == 1 else f"{sampling.temperature:g}"
        for name in sorted(rejected & values.keys()):
            if values[name] is not None:
                text = f"does not accept {name} = {values[name]}; requests are sent without it"
                self._warn(service, "parameter_dropped", text, key=name)
        if (longest := service.client.style.longest) is not None:
            text = f"has a small context, so completions are limited to {longest} tokens (not offload.max_tokens)"
            self._warn(service, "small_context", text)
        unbounded = "reasoning_effort" in rejected and not service.endpoint.chat.bounds_reasoning
        if unbounded and self.ledger.capped and not service.price.free:
            self._end(f"the hidden reasoning of {service.label} cannot be switched off and has no limit")

    def give_up(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, tries: int) -> None:
        """Give up slots after ``tries`` requests in a row that brought nothing."""
        self._lose(order, places, service, f"nothing usable from {service.label} in {tries} requests")

    def reject(self, order: CompletionRequest, service: ProviderService, fault: RequestFailed) -> None:
        """Give up the unfilled slots of an order whose prompt a service rejects."""
        order.refused = True
        self._lose(order, unfilled(self.journal, order), service, service.describe(fault))
        text = f"rejected a prompt ({fault.detail}); slots of rejected prompts stay empty"
        self._warn(service, "prompt_refused", text)

    def _lose(self, order: CompletionRequest, places: Sequence[int], service: ProviderService, why: str) -> None:
        self.journal.write_lost(order, places, why)
        order.settled += len(places)
        self.spending(order.round, service).lost += len(places)

    def look(self, service: ProviderService, answer: ChatAnswer, texts: list[str]) -> None:
        """Check an answer for another model or ignored temperature; ``texts`` are its usable completions."""
        if answer.model and not same_model(service.endpoint.model, answer.model):
            asked, told = short_name(service.endpoint.model), foreign(short_name(answer.model))
            self._warn(service, "another_model", f"was asked for {asked} but answered as {told}")
        if len(texts) > 1:
            self.alike = self.alike + 1 if len(set(texts)) == 1 else 0
        if self.alike >= ALIKE:
            self._warn(service, "greedy", "returns identical completions of a prompt; it seems to ignore temperature")

    def _warn(self, service: ProviderService, code: str, text: str, key: str | None = None) -> None:
        if (key or code) not in service.warned:
            service.warned.add(key or code)
            self.emit(service.warning(code, text))


def _expected(service: ProviderService, prompt: int, count: int, bound: int) -> float:
    """Return how many tokens a request will count as toward the service's rate limit."""
    mean = service.tokens_a_choice
    return prompt + count * (bound if service.endpoint.chat.counts_maximum or mean is None else mean)


def unfilled(journal: Journal, order: CompletionRequest) -> list[int]:
    """Return an order's slots that are neither filled nor given up."""
    settled = journal.settled(order.round, order.stage, order.question)
    return [place for place in order.indices if place not in settled]
