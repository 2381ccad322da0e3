"""Does a service accept a key? One request that costs nothing, bounded in time and size; the key goes to one host."""

from __future__ import annotations

import base64
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from hivemind_exp.sources.providers import PROVIDERS, Provider
from swarmctl import __version__

Result = Literal["valid", "refused", "no_credit", "unreachable", "not_understood", "unreadable"]

LIMIT_S = 10.0
"""For everything: name, connection, encryption, answer, however slowly it drips."""
_MOST_BYTES = 8 * 2**20
_POOR = ("insufficient_quota", "insufficient balance", "insufficient credit", "credit balance", "billing", "no credit")
_WRONG_KEY = ("api key not valid", "api_key_invalid", "incorrect api key", "invalid api key", "invalid_api_key")
"""Gemini and xAI answer a wrong key with 400."""
_VIEWER = json.dumps({"query": "query { viewer { username } }"}).encode()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a test of a key found."""

    result: Result
    detail: str
    """One line for people. Never contains the key."""
    models: tuple[str, ...] | None = None
    """Ids of the models that the key may use; None where that was not asked or not understood."""


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


def probe(name: str, base_url: str, key: str, limit: float = LIMIT_S) -> Finding:
    """Ask the service at ``base_url`` whether it accepts ``key``. Takes at most ``limit`` seconds; raises nothing."""
    row = PROVIDERS.get(name) or Provider(name, base_url)
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    # A thread of its own: no library bounds the look-up of a name, or an answer that drips.
    threading.Thread(target=lambda: answers.put(_ask(row, base_url, key, limit)), daemon=True).start()
    try:
        finding = answers.get(timeout=limit)
    except queue.Empty:
        finding = Finding("unreachable", f"no answer within {limit:.0f} s")
    return Finding(finding.result, finding.detail.replace(key, "…"), finding.models)


def _ask(row: Provider, base_url: str, key: str, limit: float) -> Finding:
    try:
        answer = _get(base_url + row.key_path, _headers(row, key), limit, _VIEWER if row.name == "wandb" else None)
        return _models(answer) if row.key_path == "/models" else _account(row, answer)
    except urllib.error.HTTPError as error:
        with error:
            return _refusal(error.code, error.read(65536))
    except _OtherHost as error:
        return Finding("unreachable", f"it redirects to {error}; the key was not sent there")
    except urllib.error.URLError as error:
        return Finding("unreachable", _reason(error.reason))
    except (OSError, HTTPException) as error:
        return Finding("unreachable", _reason(error))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Finding("not_understood", "the answer is not the one expected: another kind of server is there")


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__


def _headers(row: Provider, key: str) -> dict[str, str]:
    bearer = f"Bearer {key}"
    if row.name == "wandb":
        bearer = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    return {
        "Authorization": bearer,
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"swarmctl/{__version__}",
    }


def _get(url: str, headers: Mapping[str, str], limit: float, body: bytes | None) -> Any:
    opener = urllib.request.build_opener(_SameHostOnly)
    with opener.open(urllib.request.Request(url, body, dict(headers)), timeout=limit) as response:
        return json.loads(response.read(_MOST_BYTES))


def _models(answer: Any) -> Finding:
    rows = answer.get("data") if isinstance(answer, dict) else answer  # Together answers with the list alone
    if not isinstance(rows, list):
        raise TypeError
    names = tuple(str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row)
    return Finding("valid", f"{len(names)} model" + ("" if len(names) == 1 else "s"), names)


def _account(row: Provider, answer: Any) -> Finding:
    """Read what those services answer that say whose key it is."""
    if row.name == "wandb":
        viewer = (answer.get("data") or {}).get("viewer")
        return Finding("valid", f"of {viewer.get('username')}") if viewer else Finding("refused", "it is nobody's key")
    if row.name == "openrouter":
        left = (answer.get("data") or {}).get("limit_remaining")
        if isinstance(left, int | float) and left <= 0:
            return Finding("no_credit", "the key's own limit is used up")
        return Finding("valid", "accepted" if left is None else f"{left:.2f} USD of the key's limit left")
    return Finding("valid", f"of {answer['name']}")


def _refusal(status: int, body: bytes) -> Finding:
    text = body.decode(errors="replace").lower()
    if status == 402 or (status in (403, 429) and any(word in text for word in _POOR)):
        return Finding("no_credit", f"accepted, but there is no credit left (HTTP {status})")
    if status in (401, 403) or (status == 400 and any(word in text for word in _WRONG_KEY)):
        return Finding("refused", f"the service does not accept it (HTTP {status})")
    if status == 429:
        return Finding("unreachable", "the service asks to slow down (HTTP 429); try later")
    if status == 404:
        return Finding("not_understood", "there is no list of models at that address (HTTP 404)")
    return Finding("unreachable", f"the service answers with HTTP {status}")
