"""The HTTP client under the SDK. The SDK reads the body of an error whole before anyone can limit it."""

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import httpx2
import openai

LARGEST_ERROR = 65_536
"""Bytes that are read of an error's body, after decompression."""
_ERROR_S = 5.0
"""Time limit for an error's body. The status is known by then."""
_OF_THE_BODY_SENT = ("content-encoding", "content-length", "transfer-encoding")


class BoundedHttpClient(openai.DefaultAioHttpClient):
    """Sends requests. Of a response that is not a success, it returns only the beginning of the body.

    The body of a success is not read here: the caller streams it and stops at its own limit.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = await super().send(request, **options | {"stream": True})
        if response.is_success:
            return response
        content = bytearray()
        try:
            with suppress(httpx2.HTTPError, TimeoutError):  # it broke off or took too long: what arrived must do
                async with asyncio.timeout(_ERROR_S), aclosing(response.aiter_bytes()) as parts:
                    async for part in parts:
                        content += part
                        if len(content) >= LARGEST_ERROR:
                            break
        finally:
            await response.aclose()
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY_SENT]
        return httpx2.Response(
            response.status_code, headers=kept, content=bytes(content[:LARGEST_ERROR]), request=request
        )
