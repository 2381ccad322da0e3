"""Taking turns on one GPU: the servers of this node's weights sleep, unless they generate.

So training has the memory that the servers need, and the other way round. Weights are loaded only into a server that
is awake: vLLM copies them into memory that a sleeping server does not have.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from hivemind_exp.events import WarningEvent
from hivemind_exp.models.device import release_kept
from hivemind_exp.offload.api.engines import inference_engine
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.replicas import Replicas
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.sources.source import NodeParts
from hivemind_exp.stop import StopFlag

RESTART = "Restart the server"
AWAKE = "offload.serving.turns = off"
_UNKNOWN = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


@dataclass
class GpuTurns:
    """Wakes the servers and puts them to sleep. Call it from one thread."""

    replicas: Replicas
    device: str
    """The device that this machine trains on, as torch calls it."""
    advice: str
    """How a server is started so that it can sleep."""
    seconds: float
    """The time limit of a request (``offload.limits.timeout``)."""
    stop: StopFlag
    warn: Callable[[str], None]
    """Reports a clause whose subject is the servers."""
    _able: bool = field(default=True, init=False)
    """Whether the servers know how to sleep. If not, they stay awake."""
    _failed: bool = field(default=False, init=False)
    """Whether the last try to put them to sleep failed."""

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Wake the servers for the block. No request may be in flight at its end.

        Raises ``RequestFailed`` if a server does not wake up, and ``StopRequested``. If the block raises, the run ends,
        and the servers stay awake.
        """
        release_kept(self.device)
        if self._able:
            try:
                self._wait(self.replicas.wake())
            except RequestFailed as fault:
                raise self._not_woken(fault) from fault
        yield
        self.sleep()

    def sleep(self) -> None:
        """Put the servers to sleep. If they refuse, they keep their memory, and a warning says so once.

        Raises ``StopRequested``.
        """
        if not self._able:
            return
        try:
            self._wait(self.replicas.sleep())
        except RequestFailed as fault:
            self._able = fault.status not in _UNKNOWN
            if not self._failed and fault.status == HTTPStatus.CONFLICT:
                self.warn(f"may keep its memory while this machine trains: {fault.detail}. {RESTART}")
            elif not self._failed and fault.sent:  # otherwise the server is down, and its completions will say so
                remedy = f"{self.advice}, or set {AWAKE}" if not self._able else f"To share the memory, set {AWAKE}"
                what = "does not fall asleep, so it keeps its memory while this machine trains"
                self.warn(f"{what} ({self._detail(fault)}). {remedy}")
            self._failed = fault.sent
        else:
            self._failed = False

    def _not_woken(self, fault: RequestFailed) -> RequestFailed:
        if not fault.sent:
            return fault
        if fault.status == HTTPStatus.CONFLICT:
            return replace(fault, detail=f"it is not woken up ({fault.detail}). {RESTART}")
        return replace(fault, detail=f"it does not wake up ({self._detail(fault)}). To keep it awake, set {AWAKE}")

    def _detail(self, fault: RequestFailed) -> str:
        if fault.trouble is FaultKind.TIMEOUT:
            return f"no answer within the {self.seconds:g} s of offload.limits.timeout"
        return fault.detail

    def _wait(self, done: Future[None]) -> None:
        self.stop.wait_for([done])
        done.result()


def take_turns(parts: NodeParts, replicas: Replicas, endpoint: Endpoint) -> GpuTurns | None:
    """Return what lets a node and its servers take turns; None if they don't."""
    if parts.config.offload.serving.turns != "on" or parts.model is None:
        return None
    advice, seconds = inference_engine(parts.config).advice.turns, parts.config.offload.limits.timeout

    def warn(text: str) -> None:
        message = f"{endpoint.label} {text}"
        parts.emit(WarningEvent(code="policy_awake", message=message, provider=endpoint.name))

    return GpuTurns(replicas, str(parts.model.device), advice, seconds, parts.stop, warn)
