"""Whether a server's completions are samples of the weights that were pushed to it; if not, why.

Its log-probabilities of some completions are compared with this machine's. The two compute in different number formats,
so they never agree exactly. What the server answers with instead is found by computing that here, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hivemind_exp.offload.api.policy_server import Advice
from hivemind_exp.sources.adapter_versions import BASE

ROWS = 8
"""Completions that are compared."""
MOST_TOKENS = 64
"""Tokens of each that are compared, from the start."""
NOISE = 0.1
"""Mean difference in nats per token up to which a number format explains it. Between a vLLM in bfloat16 and a node in
float32, 0.047 to 0.074 was seen with SmolLM2-135M, and 0.039 between the two formats in transformers. The loss corrects
for what is left, because it knows the server's own log-probabilities."""
EXACT = 1e-3
"""Differences below this need no explanation."""
ANOTHER_MODEL = 1.0
"""Mean difference in nats per token above which the server has another model."""
_QUIETER = 0.5
"""Another explanation is believed if it leaves less than this share of the difference."""
_SUSPICIOUS = 1.5
"""Other explanations are looked at if the difference is this many times the smallest one that was accepted."""


class Cause(StrEnum):
    """Why a server's completions are not this node's. The values are clauses whose subject is the server."""

    IGNORED = "answers with the base model, as if nothing had been pushed"
    BEHIND = "answers with the weights of an earlier push"
    RAW = "returns the log-probabilities of temperature 1 instead of those of the sampling temperature"
    OTHER_PROMPT = "completes different tokens from those it was sent"
    FORMAT = "computes with less precise weights than this machine, for example quantized ones"
    OTHER_MODEL = "has another model"


def remedy(cause: Cause, advice: Advice) -> str:
    """Return what helps against a cause, as a sentence without its full stop. ``advice``: that of the engine."""
    match cause:
        case Cause.IGNORED:
            return f"{advice.adapters}, and put no proxy in front of it that changes the model's name"
        case Cause.BEHIND:
            return "Put no cache or load balancer in front of it; list its replicas in offload.serving.urls"
        case Cause.RAW:
            return advice.sampled_logps
        case Cause.OTHER_PROMPT:
            return "Put no proxy in front of it that applies a chat template"
        case Cause.FORMAT:
            return advice.precision
        case Cause.OTHER_MODEL:
            return "Start it with the model of model.name"


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a comparison."""

    distance: float
    """Mean difference from this machine's log-probabilities, in nats per token."""
    cause: Cause | None
    """None: the completions are samples of the weights that were pushed."""


Logps = Sequence[Sequence[float]]
Own = Callable[[int, float], Logps]
"""Returns this machine's log-probabilities, given a push's serial or ``BASE``, and a temperature."""


@dataclass
class ServerCheck:
    """Compares answers of one replica."""

    temperature: float
    _quietest: float | None = field(default=None, init=False)
    """The smallest difference that was accepted so far."""

    def compare(self, theirs: Logps, own: Own, serial: int, earlier: Sequence[int]) -> Agreement:
        """Return what explains the server's log-probabilities. ``earlier``: the pushes before ``serial``."""
        distance = _distance(theirs, own(serial, self.temperature))
        known = self._quietest if self._quietest is not None else 0.0
        if distance <= max(EXACT, _SUSPICIOUS * known) and distance <= NOISE:
            return self._accepted(distance)
        # The first of equals is named: before the first step, an adapter changes nothing.
        others = [(Cause.IGNORED, _distance(theirs, own(BASE, self.temperature)))]
        others += [(Cause.BEHIND, _distance(theirs, own(each, self.temperature))) for each in earlier]
        if self.temperature != 1:
            others.append((Cause.RAW, _distance(theirs, own(serial, 1.0))))
        cause, least = min(others, key=lambda each: each[1])
        if least < _QUIETER * distance:
            return Agreement(distance, cause)
        if distance <= NOISE:
            return self._accepted(distance)
        return Agreement(distance, Cause.FORMAT if distance < ANOTHER_MODEL else Cause.OTHER_MODEL)

    def _accepted(self, distance: float) -> Agreement:
        self._quietest = distance if self._quietest is None else min(self._quietest, distance)
        return Agreement(distance, None)


def _distance(theirs: Logps, own: Logps) -> float:
    pairs = [(a, b) for row, other in zip(theirs, own, strict=True) for a, b in zip(row, other, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)
