"""Does a service accept a key?"""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from hivemind_exp.providers import PROVIDERS, Provider
from swarmctl.keys.http_client import HttpAnswer, Unanswered, request
from swarmctl.version import VERSION

Result = Literal["valid", "refused", "no_credit", "unreachable", "not_understood", "unreadable"]

LIMIT_S = 10.0
"""For everything: name, connection, encryption, answer, however slowly it drips."""
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
    answer: HttpAnswer | None = None
    """What it follows from; None where none came."""


def probe(name: str, base_url: str, key: str | None, limit: float = LIMIT_S, *, path: str | None = None) -> KeyTest:
    """Ask the service at ``base_url`` whether it accepts ``key``. Takes at most ``limit`` seconds; raises nothing.

    ``path``: what is asked for; left out, what the service answers to valid keys only. Costs nothing.
    """
    row = PROVIDERS.get(name) or Provider(name, base_url)
    row = row if path is None else replace(row, key_path=path)
    try:
        answer = send(row, base_url + row.key_path, key, limit, _VIEWER if row.name == "wandb" else None)
    except Unanswered as error:
        finding = KeyTest("unreachable", str(error))
    else:
        told = _read(row, answer) if 200 <= answer.status < 300 else _refusal(answer, key)
        finding = replace(told, answer=answer)
    return replace(finding, detail=finding.detail.replace(key, "…")) if key else finding


def send(row: Provider, url: str, key: str | None, limit: float, body: bytes | None = None) -> HttpAnswer:
    """Ask a service, with its key. Raises Unanswered, also where it leads to another host."""
    answer = request("GET" if body is None else "POST", url, headers_for(row, key), limit, body)
    if answer.elsewhere is not None:
        raise Unanswered(f"it redirects to {answer.elsewhere or 'nowhere'}; the key was not sent there")
    return answer


def headers_for(row: Provider, key: str | None) -> dict[str, str]:
    """Return what is sent with every request to a service."""
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"swarmctl/{VERSION}",
    }
    if key is None:
        return headers
    basic = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    return headers | {"Authorization": basic if row.name == "wandb" else f"Bearer {key}"}


def _read(row: Provider, answer: HttpAnswer) -> KeyTest:
    try:
        document = json.loads(answer.body)
        return _models(document) if row.key_path == _MODELS else _account(row, document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return KeyTest("not_understood", "the answer is not the one expected: another kind of server is there")


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
