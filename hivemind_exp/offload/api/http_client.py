"""The HTTP client under the SDK. It chooses the proxy, and limits how much of an error's body is read."""

from contextlib import aclosing, suppress
from typing import Any

import httpx2
import openai

from hivemind_exp.patience import patient
from hivemind_exp.proxies import check_key_stays_private, proxy_for

LARGEST_ERROR = 65_536
"""Most bytes of an error's body that are read, after decompression."""
_ERROR_S = 5.0
"""Time limit for an error's body. The status is known by then."""
_OF_THE_BODY_SENT = ("content-encoding", "content-length", "transfer-encoding")


class BoundedHttpClient(openai.DefaultAioHttpClient):
    """Sends requests. If a response is an error, only the beginning of its body is returned.

    The body of a success is not read here: the caller streams it and stops at its own limit.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = await super().send(request, **options | {"stream": True})
        if response.is_success:
            return response
        content = bytearray()
        try:
            with suppress(httpx2.HTTPError, TimeoutError):  # it broke off or took too long: use what arrived
                async with patient(_ERROR_S), aclosing(response.aiter_bytes()) as parts:
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


def http_client(url: str, *, has_key: bool) -> BoundedHttpClient:
    """Return a client for requests to ``url``, which follows no redirect.

    Raises ConfigurationError for a proxy that cannot be used, and KeyProblem if a proxy would read the key.
    """
    if has_key:
        check_key_stays_private(url)
    proxy, verify = proxy_for(url), httpx2.create_ssl_context()
    how: dict[str, Any] = {"proxy": proxy and proxy.url, "verify": verify}
    if proxy is not None and proxy.is_socks:  # which aiohttp does not support
        limits = openai.DEFAULT_CONNECTION_LIMITS
        how = {"transport": httpx2.AsyncHTTPTransport(proxy=proxy.url, verify=verify, limits=limits)}
    return BoundedHttpClient(follow_redirects=False, trust_env=False, **how)
