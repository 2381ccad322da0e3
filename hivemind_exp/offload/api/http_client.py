"""The HTTP client under the SDK. It chooses the proxy, and limits how much of an error's body is read."""

from contextlib import aclosing, suppress
from typing import Any

import httpx2
import openai

from hivemind_exp.http_bodies import ERROR_S, LARGEST_ERROR, is_compressed_twice, with_content
from hivemind_exp.patience import patient
from hivemind_exp.proxies import check_key_stays_private, proxy_for


class BoundedHttpClient(openai.DefaultAioHttpClient):
    """Sends requests. If a response is an error, only the beginning of its body is returned.

    The body of a success is not read here: the caller streams it and stops at its own limit. A body that is compressed
    more than once counts as empty.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = await super().send(request, **options | {"stream": True})
        twice = is_compressed_twice(response)
        if response.is_success and not twice:
            return response
        content = bytearray()
        try:
            if twice:
                return with_content(response, b"")
            with suppress(httpx2.HTTPError, TimeoutError):  # it broke off or took too long: use what arrived
                async with patient(ERROR_S), aclosing(response.aiter_bytes()) as parts:
                    async for part in parts:
                        content += part
                        if len(content) >= LARGEST_ERROR:
                            break
        finally:
            await response.aclose()
        return with_content(response, bytes(content[:LARGEST_ERROR]))


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
