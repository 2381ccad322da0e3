"""Does a service accept a key? Requests are bounded in time and size, and the key goes to one host."""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from hivemind_exp.providers import PROVIDERS, Provider
from swarmctl import __version__

Result = Literal["valid", "refused", "no_credit", "unreachable", "not_understood", "unreadable"]

LIMIT_S = 10.0
"""For everything: name, connection, encryption, answer, however slowly it drips."""
_MOST_BYTES = 8 * 2**20
_MODELS = "/models"
_POOR = ("insufficient_quota", "insufficient balance", "insufficient credit", "credit balance", "billing", "no credit")
_WRONG_KEY = ("api key not valid", "api_key_invalid", "incorrect api key", "invalid api key", "invalid_api_key")
"""Gemini and xAI answer a wrong key with 400."""
_VIEWER = json.dumps({"query": "query { viewer { username } }"}).encode()


@dataclass(frozen=True, slots=True)
class KeyTest:
    """What a test of a key found."""

    result: Result
    detail: str
    """One line for people. Never contains the key."""
    models: tuple[str, ...] | None = None
    """Ids of the models that the key may use; None where that was not asked or not understood."""
    status: int | None = None
    """Of the answer in HTTP; None where none came."""
    seconds: float | None = None
    """From the request to its answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer, with small letters."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a service sent, whatever its status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    seconds: float


class Unanswered(Exception):
    """No answer; the text says why."""


class _OtherHost(Exception):
    """A redirect leads to another host."""


class _SameHostOnly(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever it is redirected."""

    def redirect_request(  # noqa: PLR0917 - urllib's own signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise _OtherHost(new.hostname or "nowhere")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def probe(name: str, base_url: str, key: str | None, limit: float = LIMIT_S, *, path: str | None = None) -> KeyTest:
    """Ask the service at ``base_url`` whether it accepts ``key``. Takes at most ``limit`` seconds; raises nothing.

    ``path``: what is asked for; left out, what the service answers to valid keys only. Costs nothing.
    """
    row = PROVIDERS.get(name) or Provider(name, base_url)
    row = row if path is None else replace(row, key_path=path)
    answers: queue.SimpleQueue[KeyTest] = queue.SimpleQueue()
    # A thread of its own: no library bounds the look-up of a name, or an answer that drips.
    threading.Thread(target=lambda: answers.put(_ask(row, base_url, key, limit)), daemon=True).start()
    try:
        finding = answers.get(timeout=limit)
    except queue.Empty:
        finding = KeyTest("unreachable", _silence(limit))
    return replace(finding, detail=finding.detail.replace(key, "…")) if key else finding


def _ask(row: Provider, base_url: str, key: str | None, limit: float) -> KeyTest:
    try:
        answer = send(base_url + row.key_path, headers_for(row, key), limit, _VIEWER if row.name == "wandb" else None)
    except Unanswered as error:
        return KeyTest("unreachable", str(error))
    try:
        finding = _read(row, answer) if 200 <= answer.status < 300 else _refusal(answer, key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        finding = KeyTest("not_understood", "the answer is not the one expected: another kind of server is there")
    return replace(finding, status=answer.status, seconds=answer.seconds, headers=answer.headers)


def send(url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> HttpAnswer:
    """Ask, with the key in ``headers``. A redirect is followed within the host alone. Raises Unanswered."""
    opener = urllib.request.build_opener(_SameHostOnly)
    began = time.monotonic()
    try:
        with _opened(opener, urllib.request.Request(url, body, dict(headers)), limit) as response:
            content = response.read(_MOST_BYTES)
            told = {name.lower(): value for name, value in response.headers.items()}
            return HttpAnswer(response.status, content, told, time.monotonic() - began)
    except _OtherHost as error:
        raise Unanswered(f"it redirects to {error}; the key was not sent there") from error
    except urllib.error.URLError as error:
        raise Unanswered(_reason(error.reason, limit)) from error
    except (OSError, HTTPException) as error:
        raise Unanswered(_reason(error, limit)) from error


def _opened(opener: urllib.request.OpenerDirector, request: urllib.request.Request, limit: float) -> Any:
    try:
        return opener.open(request, timeout=limit)
    except urllib.error.HTTPError as error:
        return error  # an answer like others, with another status


def _silence(limit: float) -> str:
    return f"no answer within {limit:.0f} s"


def _reason(error: object, limit: float) -> str:
    if isinstance(error, TimeoutError):
        return _silence(limit)
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__


def headers_for(row: Provider, key: str | None) -> dict[str, str]:
    """Return what is sent with every request to a service."""
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"swarmctl/{__version__}",
    }
    if key is None:
        return headers
    basic = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    return headers | {"Authorization": basic if row.name == "wandb" else f"Bearer {key}"}


def _read(row: Provider, answer: HttpAnswer) -> KeyTest:
    document = json.loads(answer.body)
    return _models(document) if row.key_path == _MODELS else _account(row, document)


def _models(answer: Any) -> KeyTest:
    rows = answer.get("data") if isinstance(answer, dict) else answer  # Together answers with the list alone
    if not isinstance(rows, list):
        raise TypeError
    names = tuple(str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row)
    return KeyTest("valid", f"{len(names)} model" + ("" if len(names) == 1 else "s"), names)


def _account(row: Provider, answer: Any) -> KeyTest:
    """Read what those services answer that say whose key it is."""
    if row.name == "wandb":
        viewer = (answer.get("data") or {}).get("viewer")
        return KeyTest("valid", f"of {viewer.get('username')}") if viewer else KeyTest("refused", "it is nobody's key")
    if row.name == "openrouter":
        left = (answer.get("data") or {}).get("limit_remaining")
        if isinstance(left, int | float) and left <= 0:
            return KeyTest("no_credit", "the key's own limit is used up")
        return KeyTest("valid", "accepted" if left is None else f"{left:.2f} USD of the key's limit left")
    return KeyTest("valid", f"of {answer['name']}")


def _refusal(answer: HttpAnswer, key: str | None) -> KeyTest:
    status, text = answer.status, answer.body[:65536].decode(errors="replace").lower()
    if status == 402 or (status in (403, 429) and any(word in text for word in _POOR)):
        return KeyTest("no_credit", f"accepted, but there is no credit left (HTTP {status})")
    if status in (401, 403) or (status == 400 and any(word in text for word in _WRONG_KEY)):
        said = "the service wants a key" if key is None else "the service does not accept it"
        return KeyTest("refused", f"{said} (HTTP {status})")
    if status == 429:
        return KeyTest("unreachable", "the service asks to slow down (HTTP 429); try later")
    if status == 404:
        return KeyTest("not_understood", "there is no list of models at that address (HTTP 404)")
    return KeyTest("unreachable", f"the service answers with HTTP {status}")
