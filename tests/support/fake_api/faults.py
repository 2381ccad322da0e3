"""The server's faults, and what decides when they occur."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.support.fake_api.ask import Ask


class Fault(StrEnum):
    """A kind of misbehavior."""

    # Refused before generation: nothing is billed.
    RATE_LIMIT = "rate_limit"  # 429 with retry-after
    RATE_LIMIT_BARE = "rate_limit_bare"  # 429 without retry-after
    QUOTA = "quota"  # 429 insufficient_quota: waiting does not help
    NO_CREDIT = "no_credit"  # 402
    UNAUTHORISED = "unauthorised"  # 401
    FORBIDDEN = "forbidden"  # 403
    UNKNOWN_MODEL = "unknown_model"  # 404
    BAD_PARAMETER = "bad_parameter"  # 400 that names a parameter
    UNKNOWN_FIELD = "unknown_field"  # 422 in FastAPI's form
    SMALL_CONTEXT = "small_context"  # 400: the prompt alone exceeds the context
    TIMEOUT = "timeout"  # 408
    SERVER_ERROR = "server_error"  # 500
    UNAVAILABLE = "unavailable"  # 503
    ERROR_OK = "error_ok"  # 200 whose body is an error, as OpenRouter sends
    HTML_OK = "html_ok"  # 200 whose body is a web page
    HTML_GATEWAY = "html_gateway"  # 502 whose body is a web page
    REDIRECT = "redirect"  # 307 to another host
    CLOSE = "close"  # the connection is closed without an answer

    # Generated and billed, but the answer arrives incomplete or late.
    TRUNCATED = "truncated"  # half of the JSON, sent as if it were complete
    RESET = "reset"  # half of the body, then the connection is reset
    DROPPED = "dropped"  # the connection is closed without a byte of the answer
    LOST_GATEWAY = "lost_gateway"  # 504 from a gateway that did not wait for the answer
    FAILED_LATE = "failed_late"  # 500 without usage, after the work was done
    LOST_PROXY = "lost_proxy"  # 503 in plain text from a proxy that lost the answer, as Envoy sends
    STALL = "stall"  # nothing, until the client disconnects
    STALL_BODY = "stall_body"  # half of the body, then nothing until the client disconnects
    SLOW = "slow"  # the first byte comes late
    DRIP = "drip"  # a byte per second
    HUGE = "huge"  # a good answer after 100 MB of whitespace

    # Generated, billed, delivered, and odd.
    FEWER = "fewer"  # one choice fewer than requested (but at least one)
    EXTRA = "extra"  # one choice more than requested
    NO_CHOICES = "no_choices"
    EMPTY = "empty"  # the content is ""
    NULL = "null"  # the content is null
    LENGTH = "length"  # half of the text, finish_reason "length"
    FILTERED = "filtered"  # half of the text, finish_reason "content_filter"
    NULL_LOGPROBS = "null_logprobs"
    OTHER_MODEL = "other_model"
    NO_USAGE = "no_usage"
    NEGATIVE_USAGE = "negative_usage"
    STRING_USAGE = "string_usage"
    CHOICES_NOT_LIST = "choices_not_list"
    PARTS = "parts"  # the content is a list of parts, with hidden reasoning first
    CHOICE_ERROR = "choice_error"  # half of the text, and an error inside the choice
    FLOAT_USAGE = "float_usage"  # the usage as floats
    ADDED_PROMPT = "added_prompt"  # the service adds text to the prompt and bills it


TRANSIENT = (
    Fault.RATE_LIMIT,
    Fault.RATE_LIMIT_BARE,
    Fault.TIMEOUT,
    Fault.SERVER_ERROR,
    Fault.UNAVAILABLE,
    Fault.ERROR_OK,
    Fault.HTML_OK,
    Fault.HTML_GATEWAY,
    Fault.CLOSE,
    Fault.TRUNCATED,
    Fault.RESET,
    Fault.DROPPED,
    Fault.LOST_GATEWAY,
    Fault.FAILED_LATE,
    Fault.LOST_PROXY,
)
"""Retrying helps with these."""
ODD = (
    Fault.FEWER,
    Fault.EXTRA,
    Fault.NO_CHOICES,
    Fault.EMPTY,
    Fault.NULL,
    Fault.LENGTH,
    Fault.FILTERED,
    Fault.NULL_LOGPROBS,
    Fault.OTHER_MODEL,
    Fault.NO_USAGE,
    Fault.NEGATIVE_USAGE,
    Fault.STRING_USAGE,
    Fault.CHOICES_NOT_LIST,
    Fault.PARTS,
    Fault.CHOICE_ERROR,
    Fault.FLOAT_USAGE,
    Fault.ADDED_PROMPT,
)
"""An answer arrived and was billed; its content has to be checked."""
_SECONDS = {Fault.RATE_LIMIT: 0.05, Fault.SLOW: 1.0, Fault.DRIP: 1.0}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault with its details."""

    kind: Fault
    seconds: float | None = None
    """RATE_LIMIT: the value of retry-after. SLOW: the delay. DRIP: the pause after each byte."""
    retry_after: str | None = None
    """A raw value for that header instead, with any refusal (a date, a negative number, nonsense)."""
    parameter: str = "max_tokens"
    """BAD_PARAMETER, UNKNOWN_FIELD: the parameter or field that the error names."""
    location: str = "http://127.0.0.1:9/v1/chat/completions"
    """REDIRECT: the target."""
    size: int = 100_000_000
    """HUGE: bytes of whitespace."""

    @property
    def delay(self) -> float:
        """The given seconds, or the kind's default."""
        return _SECONDS.get(self.kind, 0.0) if self.seconds is None else self.seconds


def as_trouble(value: Any) -> Trouble | None:
    """Return a ``Trouble`` from a fault, its name, or the JSON form ``{"kind": …, "seconds": …}``."""
    if value is None or isinstance(value, Trouble):
        return value
    if isinstance(value, dict):
        return Trouble(**{**value, "kind": Fault(value["kind"])})
    return Trouble(Fault(value))


Predicate = Callable[[Ask], Fault | Trouble | None]


class FaultPlan:
    """Selects the fault of each request: from the queue first, then the one set for all, then at random."""

    def __init__(self) -> None:
        self.always: dict[str, Trouble] = {}
        self._queues: dict[str, deque[Trouble]] = defaultdict(deque)

    def queue(self, endpoint: str, trouble: Trouble, times: int) -> None:
        """Let the next ``times`` requests to an endpoint fail."""
        self._queues[endpoint].extend([trouble] * times)

    def pick(self, endpoint: str, ask: Ask | None, predicate: Predicate | None, chance: Predicate) -> Trouble | None:
        """Return the fault of a request; ``ask`` is None outside chat completions."""
        if self._queues[endpoint]:
            return self._queues[endpoint].popleft()
        if endpoint in self.always:
            return self.always[endpoint]
        if ask is None:
            return None
        return as_trouble((predicate(ask) if predicate else None) or chance(ask))


def draw(seed: int, rate: float, kinds: tuple[Fault, ...], ask: Ask) -> Fault | None:
    """Return a random fault. It depends only on prompt and attempt, so the order of arrival does not matter."""
    if not rate:
        return None
    chance = random.Random(f"{seed}/{ask.digest}/{ask.attempt}")
    return chance.choice(kinds) if chance.random() < rate else None
