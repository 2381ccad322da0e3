"""Send one HTTP request, limited in time and size. Its key never goes to another host.

It uses the same proxy (``hivemind_exp.proxies``) and trusts the same certificates (``SSL_CERT_FILE``, ``SSL_CERT_DIR``)
as a run's client.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from hivemind_exp.connection_errors import TRUST, causes, is_untrusted, reason_for, through, trust_command
from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.proxies import check_key_stays_private, proxy_for

if TYPE_CHECKING:
    import httpx2

_MOST_BYTES = 8 * 2**20
_HOPS = 5


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A service's response, whatever its status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names are lowercase."""
    seconds: float
    """From the request to the end of the response."""
    elsewhere: str | None
    """The other host that the response redirects to, which was not contacted; None without such a redirect."""


class Unanswered(Exception):
    """No response; the message gives the reason."""

    def __init__(self, reason: str, *, next: str | None = None, sent: bool = True) -> None:
        super().__init__(reason)
        self.next = next
        """A command that fixes the cause; None if none is known."""
        self.sent = sent
        """Whether the service may have received the request."""


def request(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> HttpAnswer:
    """Send a request, for at most ``limit`` seconds. Follows redirects within the same host only. Raises Unanswered."""
    answer: Future[HttpAnswer] = Future()

    def ask() -> None:
        try:
            answer.set_result(_exchange(method, url, headers, limit, body))
        except Exception as error:  # noqa: BLE001 - re-raised in the waiting thread
            answer.set_exception(error)

    # In a separate thread: no library limits the time of a name lookup, or of a response that trickles in.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(limit)
    except Exception as error:
        raise _unanswered(error, url, limit) from error


def _exchange(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None) -> HttpAnswer:
    import httpx2  # imported here: commands that send no request must not wait for it

    if "Authorization" in headers:
        check_key_stays_private(url)
    proxy = proxy_for(url)
    how: dict[str, Any] = {"proxy": proxy and proxy.url, "verify": httpx2.create_ssl_context(), "trust_env": False}
    with httpx2.Client(timeout=limit, **how) as client:
        asked = client.build_request(method, url, headers={"Accept-Encoding": "identity", **headers}, content=body)
        began = time.monotonic()
        for _ in range(_HOPS):
            response = client.send(asked, stream=True)
            content, elsewhere, following = _read(response), None, response.next_request
            if following is None:
                break
            if _origin(following.url) != _origin(asked.url):
                elsewhere = following.url.netloc.decode("ascii", "replace")
                break
            asked = following
    return HttpAnswer(response.status_code, content, dict(response.headers), time.monotonic() - began, elsewhere)


def _read(response: httpx2.Response) -> bytes:
    """Return the body as sent, cut at the size limit. If the connection breaks, return what arrived until then."""
    import httpx2

    content = bytearray()
    with closing(response), suppress(httpx2.RemoteProtocolError):
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > _MOST_BYTES:
                break
    return bytes(content[:_MOST_BYTES])


def timed_out(error: BaseException | None) -> bool:
    """Whether an error comes from waiting too long."""
    return any(isinstance(cause, TimeoutError | TimeoutExpired) for cause in causes(error))


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _unanswered(error: Exception, url: str, limit: float) -> Unanswered:
    """Return what went wrong, in the system's words if available."""
    if isinstance(error, NodeError):
        return Unanswered(error.message, next=error.next, sent=False)
    import httpx2

    sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)
    if any(isinstance(cause, TimeoutError) for cause in causes(error)):
        return Unanswered(f"no response within {limit:g} s", sent=sent)
    said = reason_for(error) or foreign(str(error).strip() or type(error).__name__)
    said += through(proxy_for(url))
    if is_untrusted(error):
        return Unanswered(f"{said}. {TRUST}", next=trust_command(os.environ), sent=sent)
    return Unanswered(said, sent=sent)
