"""Picks the provider to ask: the first in the chain that works. Each outage gets one warning, and so does its end."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_exp.backoff import growing
from hivemind_exp.errors import KeyProblem, ProviderError
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.prices import Price, PromptBound, worst_case
from hivemind_exp.offload.rate_limit import LONGEST_HOLD_S, RateLimiter
from hivemind_exp.offload.settings import JUDGE, LOCAL, OFFLOAD, Endpoint

FAULTS_IN_A_ROW = 6
"""After this many failures in a row a service counts as down. At most ``request_filler.TRIES``: otherwise a slot that
is alone in flight would be given up before the service counts as down."""
_SLOWED_S = 300.0
"""A service that answers with nothing but rate-limit errors for this long counts as down."""
_PATIENT_S = 10.0
"""A pause that makes them last longer than this is reported, once."""
_REST_S = 30.0
_LONGEST_REST_S = 600.0
_DAY_S = 86400.0
"""Longest pause, even if a service asks for a longer one."""
PERMANENT = (
    FaultKind.REFUSED,
    FaultKind.FORBIDDEN,
    FaultKind.NO_CREDIT,
    FaultKind.BAD_REQUEST,
    FaultKind.USELESS,
)
"""Errors that a retry cannot fix."""
USELESS_IN_A_ROW = 24
"""After this many answers in a row without a usable text, a service counts as down if they are also most of its last
``_ANSWERS``. Fewer may be chance: a round's last prompts may be just those that it does not answer."""
_ANSWERS = 256
_POLL_S = 1.0


@dataclass(slots=True, eq=False)
class ProviderService:
    """One provider of the chain, with its health state."""

    endpoint: Endpoint
    client: ChatClient
    limiter: RateLimiter
    price: Price
    table: str = OFFLOAD
    """The settings table that names it: ``offload`` or ``judge``."""
    faults: int = 0
    """Failures in a row."""
    slowed: int = 0
    """Rate-limit errors in a row."""
    slowed_since: float = 0.0
    """Time of the first of these, on the event loop's clock."""
    outages: int = 0
    """Outages in a row."""
    answered: bool = False
    """Whether it has answered since the start."""
    refused: int = 0
    """Prompts in a row that it rejected."""
    down_since: float = 0.0
    """When the latest outage began, on the event loop's clock."""
    recovered_at: float = 0.0
    """When it ended."""
    down_until: float = 0.0
    trouble: RequestFailed | None = None
    """Why it is down; None while it works."""
    probing: bool = False
    """Whether a single request is finding out if it works again."""
    useful: deque[bool] = field(default_factory=lambda: deque(maxlen=_ANSWERS))
    """Whether each of its last answers had a usable text."""
    useless: int = 0
    """Answers in a row without one."""
    tokens_a_choice: float | None = None
    """Moving average of its completions' lengths, including hidden tokens; None before the first."""
    written: int = 0
    """Completions in its answers that count for the following two."""
    hidden_tokens: int = 0
    visible_tokens: int = 0
    added_tokens: int = 0
    """The largest number of prompt tokens that it billed beyond one per byte of the messages sent."""
    surcharge: float = 1.0
    """The largest ratio of what it charged for a request to its listed price; at least 1."""
    warned: set[str] = field(default_factory=set)
    batches: BatchClient | None = None
    """Client for its Batch API, if requests go through that."""

    @property
    def label(self) -> str:
        """Name for people, such as ``openai:gpt-4o-mini``; a judge is called so, as one provider may do both."""
        return self.endpoint.label if self.table == OFFLOAD else f"the {self.table} {self.endpoint.label}"

    @property
    def set_aside(self) -> bool:
        """Whether its answers were useless, so that waiting requests are not sent."""
        return self.trouble is not None and self.trouble.trouble is FaultKind.USELESS and not self.probing

    def most(self, prompt: PromptBound, count: int, longest: int) -> float:
        """Return the most that a request can cost, in dollars, for ``count`` choices of at most ``longest`` tokens."""
        return self.surcharge * worst_case(self.price, prompt, count, longest)

    def describe(self, fault: RequestFailed) -> str:
        return f"{self.label}: {fault.trouble} ({fault.detail})"

    def warning(self, code: str, text: str) -> WarningEvent:
        """Return a warning whose message is this service's name followed by ``text``."""
        return WarningEvent(
            code=code, message=f"{self.label} {text}", provider=self.endpoint.name, judge=self.table == JUDGE
        )


@dataclass(eq=False)
class Router:
    """Picks a service for each request and tracks the results. Use it from one event loop."""

    _chain: Sequence[ProviderService | None]
    """In order of preference; None is this machine."""
    _emit: Emit
    broke_until: float = 0.0
    """No paid service is asked before this time (Unix seconds)."""

    @property
    def budget_exhausted(self) -> bool:
        """Whether a cap is reached, so that paid services are not asked."""
        return time.time() < self.broke_until

    async def acquire(self) -> ProviderService | None:
        """Return the service to ask, or None if this machine is to generate. Waits while no service is usable.

        Only one caller at a time gets a service that is down. A caller that then does not ask it must ``release`` it.

        Raises ``NodeError`` if no service is usable and waiting would not change that.
        """
        while True:
            for service in self._chain:
                if service is None:
                    return None
                if self._usable(service):
                    service.probing = service.trouble is not None
                    return service
            if self.budget_exhausted:
                return None
            self.give_up_if_lasting()
            await asyncio.sleep(_POLL_S)

    def release(self, service: ProviderService) -> None:
        """Undo picking a service, when it was not asked or the result does not show whether it works."""
        service.probing = False

    def record_success(self, service: ProviderService, sent: float) -> None:
        """Record an answer; ``sent``: when its request was sent, on the event loop's clock.

        A request sent before an outage does not end it: a server that is stopping still answers what it has accepted.
        """
        service.answered = True
        if service.trouble is not None and sent <= service.down_since:
            return
        service.faults = service.slowed = service.refused = 0
        if service.trouble is None or service.trouble.trouble is not FaultKind.USELESS:
            self._recovered(service)

    def record_text(self, service: ProviderService, problem: RequestFailed | None) -> None:
        """Record whether an answer has a usable text; ``problem``: why not."""
        service.useful.append(problem is None)
        down = service.trouble is not None and service.trouble.trouble is FaultKind.USELESS
        if problem is None:
            service.useless = 0
            if down and math.isfinite(service.down_until):
                self._recovered(service)
            return
        service.useless += 1
        most = 2 * sum(service.useful) <= len(service.useful)
        if (down and service.probing) or (most and service.useless >= USELESS_IN_A_ROW):
            problem.detail = f"{service.useless} in a row without a usable text; the last one: {problem.detail}"
            self._rest(service, problem)

    def set_aside(self, name: str, fault: RequestFailed) -> None:
        """Stop using a provider that costs money, for the rest of this run."""
        for service in self._chain:
            if service is None or service.endpoint.name != name or service.price.free:
                continue
            if service.trouble is not None and math.isinf(service.down_until):
                continue
            service.probing = service.trouble is not None  # so that a pause becomes a permanent one
            self._rest(service, fault, math.inf)

    def _recovered(self, service: ProviderService) -> None:
        if service.trouble is not None:
            self._emit(service.warning("provider_back", "is available again"))
            service.recovered_at = asyncio.get_running_loop().time()
        service.outages = 0
        service.trouble, service.probing = None, False

    def refuses_prompt(self, service: ProviderService, fault: RequestFailed) -> bool:
        """Whether a service that answers other prompts rejects this one (too long, or against its rules)."""
        if fault.trouble is not FaultKind.BAD_REQUEST or not service.answered:
            return False
        service.refused += 1
        if service.refused >= FAULTS_IN_A_ROW:
            return False  # it now rejects every prompt
        self.release(service)
        return True

    def record_failure(self, service: ProviderService, fault: RequestFailed) -> None:
        """Record a failure. Failures of requests sent before an outage began or ended are ignored after it."""
        since = service.recovered_at if service.trouble is None else service.down_since
        if fault.sent_at is not None and fault.sent_at <= since:
            return
        if fault.trouble is FaultKind.SLOW_DOWN:
            self._slow_down(service, fault)
            return
        service.faults += 1
        if fault.wait is not None and fault.wait <= LONGEST_HOLD_S:
            service.limiter.hold(fault.wait)  # it asks for a pause, which all requests keep
        if fault.wait is not None and fault.wait > LONGEST_HOLD_S:
            self._rest(service, fault, fault.wait)
        elif fault.trouble in PERMANENT or service.faults >= FAULTS_IN_A_ROW or service.probing:
            self._rest(service, fault)

    def begin_outage(self, service: ProviderService, fault: RequestFailed) -> None:
        """Pause a service that the test request did not reach, so that this is reported before the first round."""
        self._rest(service, fault)

    def _slow_down(self, service: ProviderService, fault: RequestFailed) -> None:
        now = asyncio.get_running_loop().time()
        if service.slowed == 0:
            service.slowed_since = now
        # Many requests in flight are rejected at once. Count these as one, or the pause would grow too long.
        service.slowed += not service.limiter.held
        wait = fault.wait if fault.wait is not None else growing(service.slowed, first=0.25, longest=60.0)
        if wait > LONGEST_HOLD_S:
            self._rest(service, fault, wait)
        elif now - service.slowed_since > _SLOWED_S:
            self._rest(service, fault)
        else:
            service.limiter.hold(wait)
            service.probing = False
            if now + wait - service.slowed_since > _PATIENT_S and "rate_limited" not in service.warned:
                service.warned.add("rate_limited")
                minutes = f"{_SLOWED_S / 60:g} minutes"
                text = f"answers only that its rate limit is reached ({fault.detail}). After {minutes} of this, it"
                self._emit(service.warning("rate_limited", f"{text} counts as unavailable"))

    def _rest(self, service: ProviderService, fault: RequestFailed, seconds: float | None = None) -> None:
        """Pause a service for ``seconds``; by default, for longer with each outage."""
        if service.trouble is not None and not service.probing:
            return  # another request that failed in the same outage
        if seconds is None:
            seconds = growing(service.outages, first=_REST_S, longest=_LONGEST_REST_S)
        first, before = service.trouble is None, service.trouble
        # During an outage, the service may come back and reject the key, which no waiting helps.
        rejected = fault.trouble is FaultKind.REFUSED and (before is None or before.trouble is not FaultKind.REFUSED)
        service.trouble, service.probing = fault, False
        now = asyncio.get_running_loop().time()
        service.down_until = now + (seconds if math.isinf(seconds) else min(seconds, _DAY_S))
        service.outages += 1
        if first:
            service.down_since = now
        if first or rejected or math.isinf(seconds):
            fallback, instead = self._instead()
            name = service.endpoint.name
            ended = math.isinf(seconds)
            until = "for the rest of this run" if ended else f"until {name} is available again"
            stops = ended and len(self._chain) == 1
            then = "without a fallback, this run will stop" if stops else f"{instead} {until}"
            message = f"{service.describe(fault)}; {then}"
            aside = fault.detail if ended else None
            self._emit(
                WarningEvent(
                    code="provider_down",
                    message=message,
                    provider=name,
                    judge=service.table == JUDGE,
                    fallback=fallback,
                    set_aside=aside,
                    next=service.endpoint.key_command if rejected else None,
                )
            )

    def _instead(self) -> tuple[str | None, str]:
        """Return what generates now: its name for programs (None if nothing does), and in words."""
        for service in self._chain:
            if service is None:
                return LOCAL, "falling back to this machine"
            if service.trouble is None and not (self.budget_exhausted and not service.price.free):
                return service.endpoint.name, f"falling back to {service.endpoint.label}"
        return None, "waiting"

    def _usable(self, service: ProviderService) -> bool:
        if self.budget_exhausted and not service.price.free:
            return False
        if service.trouble is None:
            return True
        return not service.probing and asyncio.get_running_loop().time() >= service.down_until

    def give_up_if_lasting(self) -> None:
        """Raise ``NodeError`` if every service fails in a way that waiting cannot fix and there is no fallback."""
        if None in self._chain:
            return
        services = [service for service in self._chain if service is not None]
        faults = [service.trouble for service in services if service.trouble is not None]
        hopeless = (FaultKind.REFUSED, FaultKind.FORBIDDEN, FaultKind.BAD_REQUEST, FaultKind.USELESS)
        if len(faults) < len(services) or not all(fault.trouble in hopeless for fault in faults):
            return
        told = f"{services[0].describe(faults[0])}, and no fallback is available"
        if faults[0].trouble is FaultKind.REFUSED:
            raise KeyProblem(told, next=services[0].endpoint.key_command)
        raise ProviderError(told, next=faults[0].next or "swarmctl doctor api --deep")
