"""Chat completions over the wire: what is asked, what an answer holds, what an error means; and one service's client.

Every answer is hostile until read: a server may send anything, and nothing it sends may raise past ``RequestFailed``.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.ledger import Usage
from hivemind_exp.offload.rate_limit import duration
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import KEY_VARIABLES
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


def broken(detail: str) -> RequestFailed:
    """Return what a broken connection or answer means: the service may have done the work."""
    return RequestFailed(FaultKind.BROKEN, detail, billed=True)


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
    """Read an answer with status 200. Raises ``RequestFailed`` where there is none in it."""
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
        page = content[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))
        what = "an HTML page" if page else f"{len(content)} bytes"
        raise broken(f"the answer is no chat completion ({what})") from error
    usage = _usage(document.get("usage"))
    model = document.get("model")
    found = tuple(_choice(entry) for entry in choices if isinstance(entry, dict))
    return ChatAnswer(found, usage, encodable(model[:200]) if isinstance(model, str) else None, headers)


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


LARGEST_ANSWER = 32 * 2**20
"""Bytes of an answer that are read."""
_CONNECT_S = 10.0
_NO_KEY = "none"
"""What servers without keys are sent: the SDK wants something."""


class ChatClient:
    """Asks one service. For one event loop; must be closed in it."""

    def __init__(self, endpoint: Endpoint, key: str | None, *, seconds: float) -> None:
        """Make the client. ``seconds``: what one request may take in all.

        Raises ``ImportError`` where the SDK is not installed.
        """
        import openai

        # With these the SDK would send an address or identity of OpenAI's to any host. The key stays, for whoever uses
        # this as a library: a client is always given one.
        for name in [name for name in os.environ if name.startswith("OPENAI_") and name not in KEY_VARIABLES]:
            del os.environ[name]
        self._endpoint = endpoint
        self._key = key
        self._seconds = seconds
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=endpoint.base_url,
            max_retries=0,  # its retries pay in silence
            timeout=openai.Timeout(seconds, connect=_CONNECT_S),
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),
        )
        self.style = RequestDialect(endpoint.chat.max_tokens, supports_n=endpoint.chat.group == "n")

    async def ask(self, messages: tuple[Message, ...], count: int, sampling: SamplingParams, seed: int) -> ChatAnswer:
        """Ask for ``count`` completions; fewer may come. Raises ``RequestFailed``."""
        asked = body(self._endpoint, self.style, messages, count, sampling, seed)
        async with self.sdk(self._seconds) as sdk:
            # As a body of our own: checking messages against the SDK's types takes a third of a request's CPU time.
            request = sdk.chat.completions.with_streaming_response.create(
                model=self._endpoint.model, messages=(), extra_body=asked
            )
            async with request as response:
                content = self.without_key(await read_body(response, LARGEST_ANSWER))
                if len(content) > LARGEST_ANSWER:
                    raise broken(f"the answer is larger than {LARGEST_ANSWER >> 20} MiB")
                return read_answer(content, _lower(response.headers))

    @asynccontextmanager
    async def sdk(self, seconds: float) -> AsyncIterator[Any]:
        """Give the SDK for ``seconds``; whatever it raises is raised as ``RequestFailed``, which never says the key."""
        try:
            async with asyncio.timeout(seconds):
                yield self._client
        except Exception as error:
            fault = await self._explain(error, seconds)
            fault.detail = fault.detail.replace(self._key, "…") if self._key else fault.detail
            if fault is error:
                raise
            # A status error's own text may say the key.
            raise fault from (None if isinstance(error, self._openai.APIStatusError) else error)

    async def _explain(self, error: Exception, seconds: float) -> RequestFailed:
        if isinstance(error, RequestFailed):
            return error
        if isinstance(error, self._openai.APIStatusError):
            try:
                content = self.without_key(await asyncio.wait_for(error.response.aread(), 5))
            except Exception:  # noqa: BLE001 - the status says enough
                content = b""
            return refusal(error.status_code, content, _lower(error.response.headers))
        late = isinstance(error, TimeoutError | self._openai.APITimeoutError)
        if not late and not isinstance(error, self._openai.APIConnectionError):
            # The transport's own exceptions have no common base that is public.
            return broken(f"{type(error).__name__} in the midst of an answer")
        if "connect" in type(error.__cause__).__name__.lower():  # before it had a connection to go out on
            return RequestFailed(FaultKind.BROKEN, f"{self._endpoint.host} cannot be connected to", sent=False)
        if late:
            # The transport calls a connection that was closed without an answer a timeout, too.
            return RequestFailed(FaultKind.TIMEOUT, f"no answer within {seconds:g} s", billed=True)
        return broken(f"{self._endpoint.host} broke the connection")

    def without_key(self, content: bytes) -> bytes:
        """Return what a service sent without the key, which it may say in errors and elsewhere."""
        return content.replace(self._key.encode(), b"(the key)") if self._key else content

    async def close(self) -> None:
        await self._client.close()


async def read_body(response: Any, most: int) -> bytes:
    """Read an answer's body, not much further than ``most`` bytes."""
    content = bytearray()
    async for chunk in response.iter_bytes():
        content += chunk
        if len(content) > most:
            break
    return bytes(content)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def check_sdk() -> None:
    """Raise ``ConfigurationError`` where the package openai cannot be imported."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"offloading needs the package openai, which cannot be imported ({error})",
            next=f"{sys.executable} -m pip install 'openai[aiohttp]'",
        ) from error
