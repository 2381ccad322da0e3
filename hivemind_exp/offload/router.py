"""Which provider is asked now: the first of the chain that works. An outage is told once, and so is its end."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_exp.backoff import growing
from hivemind_exp.errors import KeyProblem, ProviderError
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient, FaultKind, RequestFailed
from hivemind_exp.offload.ledger import Price
from hivemind_exp.offload.rate_limit import LONGEST_HOLD_S, RateLimiter
from hivemind_exp.offload.settings import Endpoint

FAULTS_IN_A_ROW = 6
"""After so many faults without one answer a service counts as down. No more than ``engine.TRIES``: else a place that
is alone in flight would be given up before the service is."""
_SLOWED_S = 300.0
"""A service that for so long answers nothing but that it be asked more slowly counts as down."""
_REST_S = 30.0
_LONGEST_REST_S = 600.0
_DAY_S = 86400.0
"""A service may ask for a longer pause; it is asked again all the same."""
PERMANENT = (FaultKind.REFUSED, FaultKind.NO_CREDIT, FaultKind.BAD_REQUEST)
"""Troubles that no second try cures."""
_POLL_S = 1.0


@dataclass(slots=True, eq=False)
class ProviderService:
    """One provider of the chain, with its health."""

    endpoint: Endpoint
    client: ChatClient
    limiter: RateLimiter
    price: Price
    faults: int = 0
    """In a row."""
    slowed: int = 0
    """Times in a row that it asked to slow down."""
    slowed_since: float = 0.0
    """When it first did so, on the loop's clock."""
    outages: int = 0
    """Outages in a row."""
    answered: bool = False
    """It has answered since the start."""
    refused: int = 0
    """Prompts in a row that it did not take."""
    down_until: float = 0.0
    trouble: RequestFailed | None = None
    """Why it is down; None while it works."""
    probing: bool = False
    """A single request is finding out whether it works again."""
    tokens_a_choice: float | None = None
    """Moving average of the lengths of its completions, hidden tokens included; None before the first."""
    warned: set[str] = field(default_factory=set)
    batches: BatchClient | None = None
    """Its Batch API, where it is asked through that."""

    def told(self, fault: RequestFailed) -> str:
        return f"{self.endpoint.label}: {fault.trouble} ({fault.detail})"

    def warning(self, code: str, text: str) -> WarningEvent:
        """Return the warning that it does something; ``text`` goes on after its name."""
        return WarningEvent(code=code, message=f"{self.endpoint.label} {text}")


@dataclass(eq=False)
class Router:
    """Picks a service for each request, and learns from what came of it. For one event loop."""

    _chain: Sequence[ProviderService | None]
    """Used in order; None is this machine."""
    _emit: Emit
    broke_until: float = 0.0
    """No service that costs money is asked before then (Unix seconds)."""

    @property
    def budget_exhausted(self) -> bool:
        """Whether a cap is reached: what costs money is not asked."""
        return time.time() < self.broke_until

    async def acquire(self) -> ProviderService | None:
        """Return the service to ask; None where this machine is to generate. Waits where nobody can.

        Of a service that is down only one caller gets it: who then does not ask it must ``release`` it.

        Raises ``NodeError`` where nobody can and no waiting would change that.
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
        """Take back that a service was picked: what was to be asked did not tell whether it works."""
        service.probing = False

    def record_success(self, service: ProviderService) -> None:
        if service.trouble is not None:
            self._emit(service.warning("provider_back", "answers again"))
        service.faults = service.slowed = service.outages = service.refused = 0
        service.trouble, service.probing, service.answered = None, False, True

    def refuses_prompt(self, service: ProviderService, fault: RequestFailed) -> bool:
        """Whether a service that answers others does not take one prompt: too long for it, or against its rules."""
        if fault.trouble is not FaultKind.BAD_REQUEST or not service.answered:
            return False
        service.refused += 1
        if service.refused >= FAULTS_IN_A_ROW:
            return False  # it takes none any more
        self.release(service)
        return True

    def record_failure(self, service: ProviderService, fault: RequestFailed) -> None:
        if fault.trouble is FaultKind.SLOW_DOWN:
            self._slow_down(service, fault)
            return
        service.faults += 1
        if fault.wait is not None and fault.wait > LONGEST_HOLD_S:
            self._rest(service, fault, fault.wait)
        elif fault.trouble in PERMANENT or service.faults >= FAULTS_IN_A_ROW or service.probing:
            self._rest(service, fault)

    def _slow_down(self, service: ProviderService, fault: RequestFailed) -> None:
        now = asyncio.get_running_loop().time()
        if service.slowed == 0:
            service.slowed_since = now
        # Of many requests in flight many are refused at once: that is one reason to wait, not so many.
        service.slowed += not service.limiter.held
        wait = fault.wait if fault.wait is not None else growing(service.slowed, first=0.25, longest=60.0)
        if wait > LONGEST_HOLD_S:
            self._rest(service, fault, wait)
        elif now - service.slowed_since > _SLOWED_S:
            self._rest(service, fault)
        else:
            service.limiter.hold(wait)
            service.probing = False

    def _rest(self, service: ProviderService, fault: RequestFailed, seconds: float | None = None) -> None:
        """Leave a service alone for ``seconds``, or for longer with each outage."""
        if service.trouble is not None and not service.probing:
            return  # one more of the requests that met the same outage
        if seconds is None:
            seconds = growing(service.outages, first=_REST_S, longest=_LONGEST_REST_S)
        first = service.trouble is None
        service.trouble, service.probing = fault, False
        service.down_until = asyncio.get_running_loop().time() + min(seconds, _DAY_S)
        service.outages += 1
        if first:
            self._emit(WarningEvent(code="provider_down", message=f"{service.told(fault)}; {self._instead()}"))

    def _instead(self) -> str:
        for service in self._chain:
            if service is None:
                return "this machine generates until it answers again"
            if service.trouble is None and not (self.budget_exhausted and not service.price.free):
                return f"{service.endpoint.label} generates until it answers again"
        return "waiting until it answers again"

    def _usable(self, service: ProviderService) -> bool:
        if self.budget_exhausted and not service.price.free:
            return False
        if service.trouble is None:
            return True
        return not service.probing and asyncio.get_running_loop().time() >= service.down_until

    def give_up_if_lasting(self) -> None:
        """Raise ``NodeError`` where every service refuses, which no waiting cures, and nothing may stand in."""
        if None in self._chain:
            return
        services = [service for service in self._chain if service is not None]
        faults = [service.trouble for service in services if service.trouble is not None]
        hopeless = (FaultKind.REFUSED, FaultKind.BAD_REQUEST)
        if len(faults) < len(services) or not all(fault.trouble in hopeless for fault in faults):
            return
        told, name = f"{services[0].told(faults[0])}, and nothing may stand in for it", services[0].endpoint.name
        if faults[0].trouble is FaultKind.REFUSED:
            raise KeyProblem(told, next=f"swarmctl keys set {name}")
        raise ProviderError(told, next=f"swarmctl doctor api --set offload.provider={name}")
