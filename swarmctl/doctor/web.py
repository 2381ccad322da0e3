"""One small request with a limit. A token goes to the host it is for and to no other, redirected or not."""

from __future__ import annotations

import queue
import threading
import urllib.request
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from urllib.parse import urljoin, urlsplit

SECONDS = 2.0
"""Limit of one request, name server and redirects included."""
_BODY = 4 << 20
_HOPS = 4
_NO_ANSWER = f"no answer within {SECONDS:g} s"
_REDIRECTS = (301, 302, 303, 307, 308)


class Unreachable(Exception):
    """No answer; the text says why."""


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What a server said."""

    status: int
    headers: Message
    body: bytes


def request(method: str, url: str, *, token: str | None = None) -> WebAnswer:
    """Ask through the proxies of the environment, following redirects within the host alone. Raises Unreachable."""
    answers: queue.SimpleQueue[WebAnswer | Unreachable] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_follow(method, url, token))
        except Unreachable as error:
            answers.put(error)

    # In a thread of its own: a timeout of the socket bounds neither the name server nor a server that trickles.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=SECONDS)
    except queue.Empty:
        raise Unreachable(_NO_ANSWER) from None
    if isinstance(answer, Unreachable):
        raise answer
    return answer


def _follow(method: str, url: str, token: str | None) -> WebAnswer:
    for _ in range(_HOPS):
        answer = _once(method, url, token)
        following = urljoin(url, answer.headers.get("Location", ""))
        if answer.status not in _REDIRECTS or urlsplit(following)[:2] != urlsplit(url)[:2]:
            return answer
        url = following
    return answer


def _once(method: str, url: str, token: str | None) -> WebAnswer:
    # Without the handlers that follow redirects (and take the token along to any host) and that raise for a status.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    try:
        asked = urllib.request.Request(url, method=method, headers={"User-Agent": "swarmctl"})
        if token is not None:
            asked.add_unredirected_header("Authorization", f"Bearer {token}")
        response = opener.open(asked, timeout=SECONDS)
        if response is None:
            raise Unreachable("not an address of the web")
        with response:
            return WebAnswer(response.status, response.headers, response.read(_BODY))
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(_reason(error)) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError) or "timed out" in str(cause):
        return _NO_ANSWER
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(cause) or type(cause).__name__
