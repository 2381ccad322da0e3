"""Chat completions over HTTP: build requests, parse answers, classify errors; and the client for one service.

Answers are untrusted: a server may send anything, and nothing it sends may raise anything other than ``RequestFailed``.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, broken, encodable, refusal
from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.settings import Endpoint, token_limit
from hivemind_exp.providers import KEY_VARIABLES
from hivemind_exp.rollouts.types import Message

LONGEST_TEXT = 200_000
"""Longer completions are cut to this many characters."""
_MOST_TOKENS = 10**9
_SEED_BITS = 0x7FFFFFFF


_SYSTEM_ROLE = re.compile(r"\bsystem[ _](?:role|message|prompt|instruction)|role:? .?system", re.IGNORECASE)
OPTIONAL = ("temperature", "seed", "reasoning_effort", "service_tier")
"""Parameters that a request can do without."""


@dataclass(slots=True)
class RequestDialect:
    """How one service's requests must look. It starts from the provider table and adapts to the service's errors."""

    max_tokens: str
    """Name of the parameter that limits a completion."""
    supports_n: bool
    """Whether one request can ask for several choices."""
    reasons: bool = False
    """Whether the model uses hidden reasoning before it answers: known in advance, or learned from its answers."""
    unsupported_params: set[str] = field(default_factory=set)
    """Parameters that the service rejects."""
    folds_system: bool = False
    """Whether instructions must be part of the user's message, because the model has no system role."""
    changes: int = 0
    """Number of adaptations. If it grew while a request was in flight, the cause of its error may already be fixed."""

    def adapt(self, message: str) -> bool:
        """Change the parameter that an error message names; return whether anything changed."""
        named = set(re.findall(r"\w+", message))
        complaints = [name for name in OPTIONAL if name in named]
        new = next((name for name in complaints if name not in self.unsupported_params), None)
        if self.max_tokens in named and "max_tokens" not in self.unsupported_params:
            self.max_tokens = "max_tokens" if self.max_tokens == "max_completion_tokens" else "max_completion_tokens"
            self.unsupported_params.add("max_tokens")  # switch only once: nothing helps if a service takes neither
        elif new is not None:
            self.unsupported_params.add(new)
        elif self.supports_n and "n" in named:
            self.supports_n = False
        elif not self.folds_system and _SYSTEM_ROLE.search(message):
            self.folds_system = True
        else:
            return False
        self.changes += 1
        return True


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample completions."""

    temperature: float
    max_tokens: int
    """Limit on the visible completion."""
    reasoning_tokens: int
    """Extra allowance for hidden reasoning."""
    reasoning_effort: str | None
    service_tier: str | None = None
    """None: the service's default."""

    @classmethod
    def of(cls, config: Config) -> "SamplingParams":
        """Return how a node with these settings samples from an API."""
        offload, temperature = config.offload, config.generation.temperature
        effort, tier = offload.reasoning_effort, None if offload.service_tier == "default" else offload.service_tier
        return cls(temperature, token_limit(config), offload.reasoning_tokens, effort, tier)


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of an answer."""

    text: str
    truncated: bool
    filtered: bool
    failed: bool = False
    """It ended with an error."""
    reasoned: bool = False
    """The service sent hidden reasoning with it."""
    called_tool: bool = False
    instead: str = ""
    """What came instead of a text: the start of its reasoning, a refusal or a tool's name."""

    @property
    def usable(self) -> bool:
        return bool(self.text.strip()) and not self.filtered


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A service's answer."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    """None if it is missing or makes no sense."""
    model: str | None
    """The model that the service says it used."""
    headers: Mapping[str, str]
    service_tier: str | None = None
    """The tier that the service says it used."""

    @property
    def reasoned(self) -> bool:
        """Whether the model reasoned before it answered."""
        return bool(self.usage and self.usage.reasoning) or any(choice.reasoned for choice in self.choices)


def most_tokens(style: RequestDialect, sampling: SamplingParams) -> int:
    """Return the most tokens that one choice may have, including hidden ones."""
    return sampling.max_tokens + (sampling.reasoning_tokens if style.reasons else 0)


def body(  # noqa: PLR0917 - everything a request is made of
    endpoint: Endpoint,
    style: RequestDialect,
    messages: tuple[Message, ...],
    count: int,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """Return the JSON of a request, without the parameters that the service has rejected."""
    asked: dict[str, Any] = {
        "model": endpoint.model,
        "messages": _folded(messages) if style.folds_system else list(messages),
        style.max_tokens: most_tokens(style, sampling),
        "temperature": sampling.temperature,
    }
    if count > 1:
        asked["n"] = count
    if "seed" in endpoint.chat.extras:
        asked["seed"] = seed & _SEED_BITS
    if sampling.reasoning_effort is not None:
        asked["reasoning_effort"] = sampling.reasoning_effort
    if sampling.service_tier is not None and endpoint.chat.flex_share is not None:
        asked["service_tier"] = sampling.service_tier
    return {
        name: value for name, value in asked.items() if name not in style.unsupported_params or name == style.max_tokens
    }


def _folded(messages: tuple[Message, ...]) -> list[Message]:
    """Return messages without a system role: its text becomes the start of the first message of the user."""
    instructions = [message["content"] for message in messages if message["role"] == "system"]
    first, *rest = [message for message in messages if message["role"] != "system"]
    return [{"role": first["role"], "content": "\n\n".join([*instructions, first["content"]])}, *rest]


def read_answer(content: bytes, headers: Mapping[str, str]) -> ChatAnswer:
    """Parse an answer with status 200. Raises ``RequestFailed`` if it is not a chat completion."""
    try:
        document = json.loads(content.decode("utf-8-sig", "replace"))
        if isinstance(document, dict) and document.get("error") and not document.get("choices"):
            # Some services send errors with status 200; a code in the body is the real status.
            error = document["error"]
            status = error.get("code") if isinstance(error, dict) else 404
            raise refusal(status if isinstance(status, int) and status >= 400 else 500, content, headers)
        choices = document["choices"]
        if not isinstance(choices, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        page = content[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))
        what = "an HTML page" if page else f"{len(content)} bytes"
        raise broken(f"the response is not a chat completion ({what})") from error
    usage = _usage(document.get("usage"))
    model, tier = document.get("model"), document.get("service_tier")
    found = tuple(_choice(entry) for entry in choices if isinstance(entry, dict))
    model = encodable(model[:200]) if isinstance(model, str) else None
    return ChatAnswer(found, usage, model, headers, tier if isinstance(tier, str) else None)


_TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length", "max_length")
_FILTERED = ("content_filter", "content_filtered", "safety", "recitation", "prohibited_content", "blocklist", "spii")
"""How services spell why a completion ended."""


def _choice(entry: dict[str, Any]) -> Choice:
    """Return one choice. One that ended with an error has no text: it is not a whole completion."""
    reason = str(entry.get("finish_reason")).lower()
    failed = reason == "error" or bool(entry.get("error"))
    text = "" if failed else encodable(_text(entry)[:LONGEST_TEXT])
    message = entry.get("message")
    message = message if isinstance(message, dict) else {}
    reasoning, tools = message.get("reasoning_content") or message.get("reasoning"), message.get("tool_calls")
    instead = reasoning or message.get("refusal") or (_tool_name(tools) if tools else "")
    return Choice(
        text,
        truncated=reason in _TRUNCATED,
        filtered=reason in _FILTERED,
        failed=failed,
        reasoned=bool(reasoning) or _has_thoughts(message.get("content")),
        called_tool=bool(tools),
        instead=encodable(instead[:200]) if isinstance(instead, str) else "",
    )


def _has_thoughts(content: Any) -> bool:
    """Whether a list of parts has one with hidden reasoning, as Mistral sends it."""
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "thinking" for part in content
    )


def _tool_name(tools: Any) -> Any:
    first = tools[0] if isinstance(tools, list) else None
    function = first.get("function") if isinstance(first, dict) else None
    return function.get("name") if isinstance(function, dict) else "a tool call"


def _text(entry: dict[str, Any]) -> str:
    """Return a choice's text: a string, the text parts of a list, or where the older API puts it."""
    message = entry.get("message")
    content = message.get("content") if isinstance(message, dict) else entry.get("text")
    if isinstance(content, list):  # Mistral's reasoning models: parts of other types are hidden reasoning
        parts = (part for part in content if isinstance(part, dict) and part.get("type") == "text")
        content = "".join(str(part.get("text") or "") for part in parts)
    return content if isinstance(content, str) else ""


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
        # Some services bill hidden reasoning without counting it in the completion's tokens.
        completion = total - prompt
    return Usage(prompt, completion, cached or 0, reasoning or 0)


def _count(value: Any) -> int | None:
    """Return a number of tokens; some services send it as a float or a string."""
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number is not None and number.is_integer() and 0 <= number <= _MOST_TOKENS else None


LARGEST_ANSWER = 32 * 2**20
"""Largest answer that is read, in bytes."""
_CONNECT_S = 10.0
_NO_KEY = "none"
"""Placeholder for servers without API keys: the SDK requires a key."""


class ChatClient:
    """Sends requests to one service. Use and close it in one event loop."""

    def __init__(self, endpoint: Endpoint, key: str | None, *, seconds: float, reasons: bool = False) -> None:
        """Create the client. ``seconds``: the time limit of one whole request. ``reasons``: whether the model reasons.

        Raises ``ImportError`` if the SDK is not installed.
        """
        import aiohttp
        import openai

        from hivemind_exp.offload.api.http_client import BoundedHttpClient

        # With these set, the SDK would use OpenAI's address or send an OpenAI identity to any host. Key variables stay,
        # for programs that use this as a library; they don't affect the client, which always gets its key explicitly.
        for name in [name for name in os.environ if name.startswith("OPENAI_") and name not in KEY_VARIABLES]:
            del os.environ[name]
        self._endpoint = endpoint
        self._key = key
        self._seconds = seconds
        self._openai, self._aiohttp = openai, aiohttp
        self._client = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=endpoint.base_url,
            max_retries=0,  # the SDK's own retries would cost money unseen
            timeout=openai.Timeout(seconds, connect=_CONNECT_S),
            http_client=BoundedHttpClient(follow_redirects=False),
        )
        self.style = RequestDialect(endpoint.chat.max_tokens, supports_n=endpoint.chat.group == "n", reasons=reasons)

    async def ask(self, messages: tuple[Message, ...], count: int, sampling: SamplingParams, seed: int) -> ChatAnswer:
        """Request ``count`` completions; the answer may have fewer. Raises ``RequestFailed``."""
        asked = body(self._endpoint, self.style, messages, count, sampling, seed)
        async with self.sdk(self._seconds) as sdk:
            # Pass a raw body: checking messages against the SDK's types takes a third of a request's CPU time.
            request = sdk.chat.completions.with_streaming_response.create(
                model=self._endpoint.model, messages=(), extra_body=asked
            )
            async with request as response:
                content = self.without_key(await read_body(response, LARGEST_ANSWER))
                if len(content) > LARGEST_ANSWER:
                    raise broken(f"the response is larger than {LARGEST_ANSWER >> 20} MiB")
                return read_answer(content, _lower(response.headers))

    async def models(self) -> bytes:
        """Return the service's model list as it sent it. Raises ``RequestFailed``."""
        async with self.sdk(self._seconds) as sdk, sdk.models.with_streaming_response.list() as response:
            return self.without_key(await read_body(response, LARGEST_ANSWER))

    @asynccontextmanager
    async def sdk(self, seconds: float) -> AsyncIterator[Any]:
        """Yield the SDK client for at most ``seconds``.

        Every error is raised as ``RequestFailed``, which never contains the API key.
        """
        try:
            async with asyncio.timeout(seconds):
                yield self._client
        except Exception as error:
            fault = self._explain(error, seconds)
            fault.detail = fault.detail.replace(self._key, "…") if self._key else fault.detail
            if fault is error:
                raise
            # A status error's own text may contain the API key.
            raise fault from (None if isinstance(error, self._openai.APIStatusError) else error)

    def _explain(self, error: Exception, seconds: float) -> RequestFailed:
        if isinstance(error, RequestFailed):
            return error
        if isinstance(error, self._openai.APIStatusError):
            content = self.without_key(error.response.content)
            return refusal(error.status_code, content, _lower(error.response.headers))
        late = isinstance(error, TimeoutError | self._openai.APITimeoutError)
        if not late and not isinstance(error, self._openai.APIConnectionError):
            # The transport's own exceptions have no common public base class.
            return broken(f"the response from {self._endpoint.host} broke off ({type(error).__name__})")
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, self._aiohttp.ClientError):
            cause = cause.__cause__
        # The SDK reports every lost connection as a timeout while connecting. Only these are: nothing was sent.
        unsent = self._aiohttp.ClientConnectorError, self._aiohttp.ConnectionTimeoutError
        if isinstance(cause, (*unsent, self._aiohttp.ClientHttpProxyError)):
            return RequestFailed(FaultKind.BROKEN, f"cannot connect to {self._endpoint.host}", sent=False)
        if late and (cause is None or isinstance(cause, TimeoutError)):
            return RequestFailed(FaultKind.TIMEOUT, f"no response within {seconds:g} s", billed=True)
        return broken(f"lost the connection to {self._endpoint.host}")

    def without_key(self, content: bytes) -> bytes:
        """Remove the API key from a service's answer: it may appear in errors and elsewhere."""
        return content.replace(self._key.encode(), b"(the key)") if self._key else content

    async def close(self) -> None:
        await self._client.close()


async def read_body(response: Any, most: int) -> bytes:
    """Read an answer's body; stop soon after ``most`` bytes."""
    content = bytearray()
    async for chunk in response.iter_bytes():
        content += chunk
        if len(content) > most:
            break
    return bytes(content)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def check_sdk() -> None:
    """Raise ``ConfigurationError`` if the openai package cannot be imported."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"offloading needs the openai package, which cannot be imported ({error})",
            next=f"{sys.executable} -m pip install 'openai[aiohttp]'",
        ) from error
