"""The HTTP client of the hub's libraries, which would read responses of any length into memory."""

import math
from typing import Any

import httpx2
import huggingface_hub

from hivemind_exp.http_bodies import ERROR_S, LARGEST_ERROR, is_compressed_twice, read_limited, with_content

_LARGEST_ANSWER = 32 << 20
"""The number of bytes of a response that may be kept in memory. Files are streamed to the disk instead."""


class HubClient(httpx2.Client):
    """Sends the requests of the hub's libraries. It reads only the beginning of an error, and nothing of a redirect."""

    def send(
        self, request: httpx2.Request, *, stream: bool = False, follow_redirects: Any = None, **options: Any
    ) -> httpx2.Response:
        """Send a request. Raises ``OSError`` for a response that is too large or compressed twice."""
        follows = follow_redirects if isinstance(follow_redirects, bool) else self.follow_redirects
        for _ in range(self.max_redirects + 1):
            response = super().send(request, stream=True, follow_redirects=False, **options)
            if not follows or response.next_request is None:
                return self._limited(response, stream=stream)
            request = response.next_request
            response.close()
        raise httpx2.TooManyRedirects("too many redirects", request=request)

    def _limited(self, response: httpx2.Response, *, stream: bool) -> httpx2.Response:
        if not response.is_success:
            return with_content(response, read_limited(response, LARGEST_ERROR, ERROR_S))
        if is_compressed_twice(response):
            response.close()
            raise OSError("the response is compressed twice")
        if stream:
            return response
        content = read_limited(response, _LARGEST_ANSWER, math.inf)
        if len(content) >= _LARGEST_ANSWER:
            raise OSError("the response is too large")
        return with_content(response, content)


def limit_hub() -> None:
    """Make the hub's libraries use ``HubClient`` in this process."""
    theirs = huggingface_hub.get_session()
    if not isinstance(theirs, HubClient):
        hooks = theirs.event_hooks
        huggingface_hub.set_client_factory(lambda: HubClient(event_hooks=hooks, follow_redirects=True, timeout=None))
