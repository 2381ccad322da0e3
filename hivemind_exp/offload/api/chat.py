"""Chat completions as they go over the wire: what is asked, what an answer holds, what an error means. Pure functions.

Every answer is hostile until read: a server may send anything, and nothing it sends may raise past ``Fault``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any

from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.rate_limit import duration
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.rollouts.types import Message

LONGEST_TEXT = 200_000
"""Characters of a completion that are kept."""
_MOST_TOKENS = 10**9
_POOR = ("insufficient_quota", "insufficient balance", "insufficient credit", "credit balance", "billing", "no credit")
_SEED_BITS = 0x7FFFFFFF


class FaultKind(StrEnum):
    """What kind of thing went wrong, by what can be done about it."""

    SLOW_DOWN = "asked to slow down"
    BUSY = "out of order for the moment"
    BROKEN = "broken connection or answer"
    TIMEOUT = "no answer in time"
    REFUSED = "key refused"
    NO_CREDIT = "out of credit"
    BAD_REQUEST = "request not accepted"


@dataclass(eq=False)
class RequestFailed(Exception):
    """A request that brought nothing."""

    trouble: FaultKind
    detail: str
    """For people; never contains the key."""
    _: KW_ONLY
    wait: float | None = None
    """Seconds that the service asks to wait."""
    billed: bool = False
    """Whether the service may have done the work: then the reserve stays spent."""
    sent: bool = True
    """Whether the request got as far as the service."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.detail


@dataclass(slots=True)
class RequestDialect:
    """How one service wants to be asked; learned on the way where the table does not know."""

    max_tokens: str
    supports_n: bool
    """Several choices a request."""
    unsupported_params: set[str] = field(default_factory=set)
    """Parameters that it does not take."""
    changes: int = 0
    """How often it was adapted: what a request complained of may have changed while it was out."""

    def adapt(self, message: str) -> bool:
        """Change what a complaint names. Returns whether anything changed."""
        named = set(re.findall(r"\w+", message))
        complaints = [name for name in ("temperature", "seed", "reasoning_effort") if name in named]
        new = next((name for name in complaints if name not in self.unsupported_params), None)
        if self.max_tokens in named and "max_tokens" not in self.unsupported_params:
            self.max_tokens = "max_tokens" if self.max_tokens == "max_completion_tokens" else "max_completion_tokens"
            self.unsupported_params.add("max_tokens")  # once is enough: a service that takes neither is beyond help
        elif new is not None:
            self.unsupported_params.add(new)
        elif self.supports_n and "n" in named:
            self.supports_n = False
        else:
            return False
        self.changes += 1
        return True


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are to be sampled."""

    temperature: float
    max_tokens: int
    """Of what is read."""
    reasoning_tokens: int
    reasoning_effort: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of an answer."""

    text: str
    truncated: bool
    filtered: bool


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What a service sent."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    """None where it did not say, or said nonsense."""
    model: str | None
    """The model that answered, by its own word."""
    headers: Mapping[str, str]


def most_tokens(endpoint: Endpoint, sampling: SamplingParams) -> int:
    """Return the most tokens that one choice may have, hidden ones included."""
    return sampling.max_tokens + (sampling.reasoning_tokens if endpoint.reasons else 0)


def body(  # noqa: PLR0917 - all that makes a request
    endpoint: Endpoint,
    style: RequestDialect,
    messages: tuple[Message, ...],
    count: int,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """Return the JSON of a request. Nothing but what the service is known to take."""
    asked: dict[str, Any] = {
        "model": endpoint.model,
        "messages": list(messages),
        style.max_tokens: most_tokens(endpoint, sampling),
    }
    if not endpoint.reasons:
        asked["temperature"] = sampling.temperature
    if count > 1:
        asked["n"] = count
    if "seed" in endpoint.chat.extras:
        asked["seed"] = seed & _SEED_BITS
    if sampling.reasoning_effort is not None and endpoint.reasons:
        asked["reasoning_effort"] = sampling.reasoning_effort
    return {
        name: value for name, value in asked.items() if name not in style.unsupported_params or name == style.max_tokens
    }


def read_answer(content: bytes, headers: Mapping[str, str]) -> ChatAnswer:
    """Read an answer with status 200. Raises ``Fault`` where there is none in it."""
    try:
        document = json.loads(content)
        if isinstance(document, dict) and "choices" not in document and isinstance(document.get("error"), dict):
            # An error behind status 200, as OpenRouter sends: its code is the status that was meant.
            status = document["error"].get("code")
            raise refusal(status if isinstance(status, int) and status >= 400 else 500, content, headers)
        choices = document["choices"]
        if not isinstance(choices, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestFailed(
            FaultKind.BROKEN, f"the answer is no chat completion ({_shape(content)})", billed=True
        ) from error
    usage = _usage(document.get("usage"))
    model = document.get("model")
    found = tuple(_choice(entry) for entry in choices if isinstance(entry, dict))
    return ChatAnswer(found, usage, encodable(model[:200]) if isinstance(model, str) else None, headers)


def _shape(content: bytes) -> str:
    start = content[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    return f"{len(content)} bytes"


def _choice(entry: dict[str, Any]) -> Choice:
    message, reason = entry.get("message"), entry.get("finish_reason")
    text = message.get("content") if isinstance(message, dict) else None
    text = text if isinstance(text, str) else ""
    return Choice(encodable(text[:LONGEST_TEXT]), truncated=reason == "length", filtered=reason == "content_filter")


def encodable(text: str) -> str:
    """Return a text that can be kept: lone surrogates can be written in JSON, and cannot be encoded again."""
    return text.encode("utf-8", "replace").decode()


def _usage(table: Any) -> Usage | None:
    if not isinstance(table, dict):
        return None
    prompt, completion = _count(table.get("prompt_tokens")), _count(table.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    inner, outer = table.get("prompt_tokens_details"), table.get("completion_tokens_details")
    cached = _count(inner.get("cached_tokens")) if isinstance(inner, dict) else None
    reasoning = _count(outer.get("reasoning_tokens")) if isinstance(outer, dict) else None
    total = _count(table.get("total_tokens"))
    if total is not None and total > prompt + completion:
        # Some services leave hidden reasoning out of the completion's tokens and bill it all the same.
        completion = total - prompt
    return Usage(prompt, completion, cached or 0, reasoning or 0)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_TOKENS:
        return None
    return value


def refusal(status: int, content: bytes, headers: Mapping[str, str]) -> RequestFailed:
    """Return what an answer with another status means. Such an answer costs nothing."""
    text = content[:65536].decode(errors="replace")
    low, said, wait = text.lower(), _message(text), _wait(headers)
    if status == 402 or (status in (403, 429) and any(word in low for word in _POOR)):
        trouble = FaultKind.NO_CREDIT
    elif status in (401, 403):
        trouble, said = FaultKind.REFUSED, "the key is not accepted"
    elif status == 429:
        trouble = FaultKind.SLOW_DOWN
    elif status in (408, 409, 425) or status >= 500:
        trouble = FaultKind.BUSY
    else:
        trouble = FaultKind.BAD_REQUEST
        said = "it redirects, and nothing is sent to another address" if 300 <= status < 400 else said
    return RequestFailed(trouble, f"HTTP {status}: {said}", wait=wait, headers=headers)


def _message(text: str) -> str:
    """Return what an error says, short; a page is no message."""
    try:
        found = json.loads(text)
        found = found[0] if isinstance(found, list) and found else found
        error = found.get("error", found) if isinstance(found, dict) else None
        said = error.get("message") if isinstance(error, dict) else error
        said = said or (found.get("detail") if isinstance(found, dict) else None)
    except (ValueError, RecursionError):
        said = None if "<" in text else text
    return short(said)


def short(said: Any) -> str:
    """Return what a service gave as a reason on one line, cut."""
    return encodable(" ".join(str(said or "no reason given").split())[:300])


def _wait(headers: Mapping[str, str]) -> float | None:
    milliseconds = duration(headers.get("retry-after-ms", "-"))
    return duration(headers.get("retry-after", "-")) if milliseconds is None else milliseconds / 1000
