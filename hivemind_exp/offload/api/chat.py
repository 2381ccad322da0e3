"""Chat completions over HTTP: parse answers, and the client for one service.

Answers are untrusted: a server may send anything, and nothing it sends may raise anything other than ``RequestFailed``.
"""

import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from hivemind_exp.connection_errors import TRUST, causes, is_untrusted, reason_for, through
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.known_key import answer_without_key, text_without_key, without_known_key
from hivemind_exp.offload.api.dialect import RequestDialect, SamplingParams, body
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, broken, encodable, refusal
from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.patience import patient
from hivemind_exp.providers import KEY_VARIABLES
from hivemind_exp.proxies import proxy_for
from hivemind_exp.rollouts.types import Message

LONGEST_TEXT = 200_000
"""Longer completions are cut to this many characters."""
_MOST_TOKENS = 10**9
_MOST_USD = 1e5
"""A higher charge for one request is nonsense, such as an infinite one."""


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


def read_answer(content: bytes, headers: Mapping[str, str], unbilled: Collection[int] = ()) -> ChatAnswer:
    """Parse an answer with status 200. Raises ``RequestFailed`` if it is not a chat completion."""
    return read_choices(read_document(content, headers, unbilled), headers)


def read_document(content: bytes, headers: Mapping[str, str], unbilled: Collection[int] = ()) -> dict[str, Any]:
    """Return a completion's JSON, whose ``choices`` are a list. Raises ``RequestFailed`` if it is not a completion.

    ``unbilled``: statuses of errors that the service says are free.
    """
    try:
        document = json.loads(content.decode("utf-8-sig", "replace"))
        if isinstance(document, dict) and document.get("error") and not document.get("choices"):
            # Some services send errors with status 200; a code in the body is the real status.
            error = document["error"]
            # LM Studio has no code for a wrong address.
            stated = str(error.get("code")) if isinstance(error, dict) else "404" if "endpoint" in str(error) else ""
            status = int(stated) if re.fullmatch("[45][0-9][0-9]", stated) else 500
            raise refusal(status, content, headers, unbilled)
        if not isinstance(document["choices"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        start = content[:200].lstrip().lower()
        what = "an HTML page" if start.startswith((b"<!doctype", b"<html")) else f"{len(content)} bytes"
        what = "an event stream, which was not requested" if start.startswith((b"data:", b"event:")) else what
        raise broken(f"the response is not a chat completion ({what})") from error
    found: dict[str, Any] = document
    return found


def read_choices(document: Mapping[str, Any], headers: Mapping[str, str]) -> ChatAnswer:
    """Return a completion that ``read_document`` has read."""
    usage = _usage(document.get("usage"), headers)
    model, tier = document.get("model"), document.get("service_tier")
    found = tuple(_choice(entry) for entry in document["choices"] if isinstance(entry, dict))
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


def _usage(table: Any, headers: Mapping[str, str]) -> Usage | None:
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
    elif reasoning is not None and reasoning > completion:  # a part cannot be larger than the whole
        completion += reasoning
    return Usage(prompt, completion, cached or 0, reasoning or 0, _charged(table, headers))


def _charged(table: dict[str, Any], headers: Mapping[str, str]) -> float:
    """Return the dollars that a service says it charged for a request; 0 if it does not say.

    OpenRouter states ``cost``, DeepInfra ``estimated_cost``, Perplexity a table, xAI units of 1e-10 dollars, and
    LiteLLM a header.
    """
    cost = table.get("cost")
    stated = [cost.get("total_cost") if isinstance(cost, dict) else cost, table.get("estimated_cost")]
    ticks = _amount(table.get("cost_in_usd_ticks"))
    stated.append(headers.get("x-litellm-response-cost"))
    amounts = (ticks * 1e-10, *map(_amount, stated))
    return max(amount if amount <= _MOST_USD else 0.0 for amount in amounts)


def _amount(value: Any) -> float:
    """Return a number that is not negative; 0 for anything else."""
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if number > 0 else 0.0  # NaN is not above 0


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

        Raises ``ImportError`` if the SDK is not installed, and ``NodeError`` if a proxy cannot be used or would read
        the key.
        """
        import aiohttp
        import openai

        from hivemind_exp.offload.api.http_client import http_client

        # With these set, the SDK would use OpenAI's address or send an OpenAI identity to any host. Key variables stay,
        # for programs that use this as a library; they don't affect the client, which always gets its key explicitly.
        for name in [name for name in os.environ if name.startswith("OPENAI_") and name not in KEY_VARIABLES]:
            del os.environ[name]
        self._endpoint = endpoint
        self._key = key
        self._seconds = seconds
        self._in_flight = 0
        self._openai, self._aiohttp = openai, aiohttp
        self._proxy = proxy_for(endpoint.base_url)
        self._client = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=endpoint.base_url,
            max_retries=0,  # the SDK's own retries would cost money unseen
            timeout=openai.Timeout(None, connect=_CONNECT_S),  # ``sdk`` limits the rest
            http_client=http_client(endpoint.base_url, has_key=key is not None),
        )
        self.style = RequestDialect(endpoint.chat.max_tokens, supports_n=endpoint.chat.group == "n", reasons=reasons)

    async def ask(self, messages: tuple[Message, ...], count: int, sampling: SamplingParams, seed: int) -> ChatAnswer:
        """Request ``count`` completions; the answer may have fewer. Raises ``RequestFailed``."""
        asked = body(self._endpoint, self.style, messages, count, sampling, seed)
        # Pass a raw body: checking messages against the SDK's types takes a third of a request's CPU time.
        options = {"model": self._endpoint.model, "messages": (), "extra_body": asked}
        content, headers = await self._post(lambda sdk: sdk.chat.completions.with_streaming_response.create(**options))
        return self.joined_without_key(read_answer(content, headers, self._endpoint.chat.unbilled_errors))

    async def complete_raw(self, asked: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Send a body to the completions API; return its answer's body and headers. Raises ``RequestFailed``."""
        options = {"model": self._endpoint.model, "prompt": "", "extra_body": asked}
        return await self._post(lambda sdk: sdk.completions.with_streaming_response.create(**options))

    async def _post(self, ask: Callable[[Any], Any]) -> tuple[bytes, dict[str, str]]:
        """Return the body and headers of an answer."""
        async with self.sdk(self._seconds) as sdk, ask(sdk) as response:
            content = self.without_key(await read_body(response, LARGEST_ANSWER))
            if len(content) > LARGEST_ANSWER:
                raise broken(f"the response is larger than {LARGEST_ANSWER >> 20} MiB")
            return content, _lower(response.headers)

    async def call(self, path: str, asked: Mapping[str, Any] | None = None) -> bytes:
        """Send a body to a path below the base URL, or to a whole URL, and return the answer's body.

        ``asked``: None for a GET request. For what the SDK does not know. Raises ``RequestFailed``.
        """
        async with self.sdk(self._seconds) as sdk:
            how: dict[str, Any] = {"cast_to": httpx2.Response}
            response = await (sdk.get(path, **how) if asked is None else sdk.post(path, body=dict(asked), **how))
            try:
                return self.without_key(await read_body(response, LARGEST_ANSWER))
            finally:
                await response.aclose()

    async def models(self) -> bytes:
        """Return the service's model list as it sent it. Raises ``RequestFailed``."""
        async with self.sdk(self._seconds) as sdk, sdk.models.with_streaming_response.list() as response:
            return self.without_key(await read_body(response, LARGEST_ANSWER))

    @asynccontextmanager
    async def sdk(self, seconds: float) -> AsyncIterator[Any]:
        """Yield the SDK client for at most ``seconds``.

        Every error is raised as ``RequestFailed``, which never contains the API key.
        """
        self._in_flight += 1
        at_most = self._in_flight
        try:
            async with patient(seconds):
                yield self._client
        except Exception as error:
            fault = self._explain(error, seconds, max(at_most, self._in_flight))
            fault.detail = without_known_key(fault.detail, self._key, "…")
            if fault is error:
                raise
            # A status error's own text may contain the API key.
            raise fault from (None if isinstance(error, self._openai.APIStatusError) else error)
        finally:
            self._in_flight -= 1

    def _explain(self, error: Exception, seconds: float, in_flight: int) -> RequestFailed:
        """Return an error as a failure. ``in_flight``: requests to the service at the time, with this one."""
        if isinstance(error, RequestFailed):
            return error
        if isinstance(error, self._openai.APIStatusError):
            content = without_known_key(error.response.content.decode("utf-8", "replace"), self._key)
            headers, unbilled = _lower(error.response.headers), self._endpoint.chat.unbilled_errors
            return refusal(error.status_code, content.encode(), headers, unbilled)
        late = isinstance(error, TimeoutError | self._openai.APITimeoutError)
        if not late and not isinstance(error, self._openai.APIConnectionError):
            # The transport's own exceptions have no common public base class.
            return broken(f"the response from {self._endpoint.host} broke off ({type(error).__name__})")
        cause = next(
            (each for each in causes(error, handled=False) if isinstance(each, self._aiohttp.ClientError)), None
        )
        if self._never_sent(error, cause):
            why = reason_for(error)
            said = f"cannot connect to {self._endpoint.host}{through(self._proxy)}{f': {why}' if why else ''}"
            said += f". {TRUST}" if is_untrusted(error) else ""
            return RequestFailed(FaultKind.BROKEN, said, sent=False)
        if late and (cause is None or isinstance(cause, TimeoutError)):
            said = f"no response within the {seconds:g} s of offload.limits.timeout; "
            if in_flight > 1:  # a slow server answers them one after the other, and the last wait longest
                said += "other requests were in flight, too: lower offload.limits.concurrency, raise the timeout"
            else:
                said += "raise it"
            said += ", or shorten the answers with offload.max_tokens"
            return RequestFailed(FaultKind.TIMEOUT, said, billed=True)
        return broken(f"lost the connection to {self._endpoint.host}")

    def _never_sent(self, error: Exception, cause: BaseException | None) -> bool:
        """Whether the request surely never left this machine. ``cause``: the transport's own error."""
        if self._proxy is not None and self._proxy.is_socks:  # another transport, whose errors say what they are
            direct = httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError
            return any(isinstance(each, direct) for each in causes(error, handled=False))
        # The SDK reports every lost connection as a timeout while connecting. Only these are: nothing was sent.
        unsent = self._aiohttp.ClientConnectorError, self._aiohttp.ConnectionTimeoutError
        return isinstance(cause, (*unsent, self._aiohttp.ClientHttpProxyError))

    def without_key(self, content: bytes) -> bytes:
        """Remove the API key from a service's answer, so that it gets neither into the journal nor into a message."""
        return answer_without_key(content, self._key)

    def joined_without_key(self, answer: ChatAnswer) -> ChatAnswer:
        """Remove the API key from texts that arrived in parts, so that the key was only joined when they were read."""
        return replace(answer, choices=tuple(map(self._joined, answer.choices)))

    def _joined(self, choice: Choice) -> Choice:
        text, instead = (text_without_key(each, self._key) for each in (choice.text, choice.instead))
        return (
            choice if (text, instead) == (choice.text, choice.instead) else replace(choice, text=text, instead=instead)
        )

    async def close(self) -> None:
        await self._client.close()


async def read_body(response: Any, most: int) -> bytes:
    """Read an answer's body; stop soon after ``most`` bytes."""
    content = bytearray()
    async for chunk in response.aiter_bytes() if isinstance(response, httpx2.Response) else response.iter_bytes():
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
