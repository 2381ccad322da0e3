"""One request to an OpenAI-compatible service, on the official SDK: an answer, or a ``Fault`` that says what to do."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.api.chat import (
    ChatAnswer,
    FaultKind,
    RequestDialect,
    RequestFailed,
    SamplingParams,
    body,
    read_answer,
    refusal,
)
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import KEY_VARIABLES
from hivemind_exp.rollouts.types import Message

LARGEST_ANSWER = 32 * 2**20
"""Bytes of an answer that are read."""
_CONNECT_S = 10.0
_NO_KEY = "none"
"""What servers without keys are sent: the SDK wants something."""


def forget_redirections() -> None:
    """Remove the variables with which the SDK would send an address or identity of OpenAI's to any host.

    The key stays, for whoever uses this as a library: a client is always given one.
    """
    for name in [name for name in os.environ if name.startswith("OPENAI_") and name not in KEY_VARIABLES]:
        del os.environ[name]


class ChatClient:
    """Asks one service. For one event loop; must be closed in it."""

    def __init__(self, endpoint: Endpoint, key: str | None, *, seconds: float) -> None:
        """Make the client. ``seconds``: what one request may take in all.

        Raises ``ImportError`` where the SDK is not installed.
        """
        import openai

        forget_redirections()
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
        """Ask for ``count`` completions; fewer may come. Raises ``Fault``."""
        asked = body(self._endpoint, self.style, messages, count, sampling, seed)
        async with self.sdk(self._seconds) as sdk:
            # As a body of our own: checking messages against the SDK's types takes a third of a request's CPU time.
            request = sdk.chat.completions.with_streaming_response.create(
                model=self._endpoint.model, messages=(), extra_body=asked
            )
            async with request as response:
                content = self.without_key(await read_body(response, LARGEST_ANSWER))
                if len(content) > LARGEST_ANSWER:
                    raise RequestFailed(
                        FaultKind.BROKEN, f"the answer is larger than {LARGEST_ANSWER >> 20} MiB", billed=True
                    )
                return read_answer(content, _lower(response.headers))

    @asynccontextmanager
    async def sdk(self, seconds: float) -> AsyncIterator[Any]:
        """Give the SDK for ``seconds``; whatever it raises is raised as ``RequestFailed``, which never says the key."""
        try:
            async with self._faults(seconds):
                yield self._client
        except RequestFailed as fault:
            fault.detail = fault.detail.replace(self._key, "…") if self._key else fault.detail
            raise

    @asynccontextmanager
    async def _faults(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise self._late(error, seconds) from error
        except self._openai.APIStatusError as error:
            raise await self._refused(error) from None
        except self._openai.APITimeoutError as error:
            raise self._late(error, seconds) from error
        except self._openai.APIConnectionError as error:
            raise self._unconnected(error) from error
        except RequestFailed:
            raise
        except Exception as error:
            # The transport's own exceptions have no common base that is public.
            detail = f"{type(error).__name__} in the midst of an answer"
            raise RequestFailed(FaultKind.BROKEN, detail, billed=True) from error

    def without_key(self, content: bytes) -> bytes:
        """Return what a service sent without the key, which it may say in errors and elsewhere."""
        return content.replace(self._key.encode(), b"(the key)") if self._key else content

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _refused(self, error: Any) -> RequestFailed:
        try:
            content = self.without_key(await asyncio.wait_for(error.response.aread(), 5))
        except Exception:  # noqa: BLE001 - the status says enough
            content = b""
        return refusal(error.status_code, content, _lower(error.response.headers))

    def _late(self, error: BaseException, seconds: float) -> RequestFailed:
        if _never_sent(error):
            return self._unconnected(error)
        # The transport calls a connection that was closed without an answer a timeout, too.
        return RequestFailed(FaultKind.TIMEOUT, f"no answer within {seconds:g} s", billed=True)

    def _unconnected(self, error: BaseException) -> RequestFailed:
        if _never_sent(error):
            return RequestFailed(FaultKind.BROKEN, f"{self._endpoint.host} cannot be connected to", sent=False)
        return RequestFailed(FaultKind.BROKEN, f"{self._endpoint.host} broke the connection", billed=True)


def _never_sent(error: BaseException) -> bool:
    """Whether a request failed before it had a connection to go out on."""
    return "connect" in type(error.__cause__).__name__.lower()


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
