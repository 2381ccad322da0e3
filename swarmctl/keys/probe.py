"""Test whether a service accepts a key."""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from hivemind_exp.foreign_text import foreign
from hivemind_exp.known_key import answer_without_key, without_known_key
from hivemind_exp.money import dollars
from hivemind_exp.providers import PROVIDERS, Provider
from swarmctl.keys.http_client import HttpAnswer, Unanswered, request, timed_out
from swarmctl.version import VERSION

Result = Literal["valid", "refused", "no_credit", "unreachable", "not_understood", "unreadable"]

LIMIT_S = 10.0
"""Time limit for name lookup, connection, encryption and response together, however slowly the response arrives."""
_MODELS = "/models"
_POOR = ("insufficient_quota", "insufficient balance", "insufficient credit", "credit balance", "billing", "no credit")
_WRONG_KEY = ("api key not valid", "api_key_invalid", "incorrect api key", "invalid api key", "invalid_api_key")
"""Gemini and xAI respond to a wrong key with 400."""
_VIEWER = json.dumps({"query": "query { viewer { username } }"}).encode()


@dataclass(frozen=True, slots=True)
class KeyTest:
    """The result of testing a key."""

    result: Result
    detail: str
    """One line for display. Never contains the key."""
    models: tuple[str, ...] | None = None
    """Ids of the models that the key may use; None if they were not requested or not understood."""
    answer: HttpAnswer | None = None
    """The response behind the result; None if there was none."""
    timed_out: bool = False
    """Whether no response came in time."""
    next: str | None = None
    """A command that fixes what prevented the test; None if none is known."""


def probe(name: str, base_url: str, key: str | None, limit: float = LIMIT_S, *, path: str | None = None) -> KeyTest:
    """Test whether the service at ``base_url`` accepts ``key``. Takes at most ``limit`` seconds; never raises.

    ``path`` is the path to request. The default is a path that the service answers for valid keys only. Costs nothing.
    """
    row = PROVIDERS.get(name) or Provider(name, base_url)
    row = row if path is None else replace(row, key_path=path)
    try:
        answer = send(row, base_url + row.key_path, key, limit, _VIEWER if row.name == "wandb" else None)
    except Unanswered as error:
        finding = KeyTest("unreachable", str(error), timed_out=timed_out(error), next=error.next)
    else:
        result = _read(row, answer) if 200 <= answer.status < 300 else _refusal(answer, key)
        finding = replace(result, answer=answer)
    return replace(finding, detail=without_known_key(finding.detail, key, "…"))


def send(row: Provider, url: str, key: str | None, limit: float, body: bytes | None = None) -> HttpAnswer:
    """Send a request with the key, which is removed from the answer if the service repeats it.

    Raises Unanswered, also if the service redirects to another host.
    """
    answer = request("GET" if body is None else "POST", url, headers_for(row, key), limit, body)
    answer = replace(answer, body=answer_without_key(answer.body, key))
    if answer.elsewhere is not None:
        where = foreign(answer.elsewhere) if answer.elsewhere else "no host"
        what = "which was not contacted" if key is None else "and the key was not sent there"
        raise Unanswered(f"the service redirects to {where}, {what}")
    return answer


def headers_for(row: Provider, key: str | None) -> dict[str, str]:
    """Return the headers of every request to a service."""
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
        return KeyTest("not_understood", "unexpected response; this may be another kind of server")


def _models(answer: Any) -> KeyTest:
    rows = answer.get("data") if isinstance(answer, dict) else answer  # Together answers with the list alone
    if not isinstance(rows, list):
        raise TypeError
    names = tuple(str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row)
    return KeyTest("valid", f"{len(names)} model" + ("" if len(names) == 1 else "s"), names)


def _account(row: Provider, answer: Any) -> KeyTest:
    """Read the response of a service that reports the key's owner or limit."""
    if row.name == "wandb":
        viewer = (answer.get("data") or {}).get("viewer")
        return (
            KeyTest("valid", f"belongs to {foreign(viewer.get('username'))}")
            if viewer
            else KeyTest("refused", "the key belongs to no account")
        )
    if row.name == "openrouter":
        left = (answer.get("data") or {}).get("limit_remaining")
        if isinstance(left, int | float) and left <= 0:
            return KeyTest("no_credit", "the key's spending limit is used up")
        return KeyTest("valid", "accepted" if left is None else f"{dollars(left)} left of the key's spending limit")
    return KeyTest("valid", f"belongs to {foreign(answer['name'])}")


def _refusal(answer: HttpAnswer, key: str | None) -> KeyTest:
    status, text = answer.status, answer.body[:65536].decode(errors="replace").lower()
    if status == 402 or (status in (403, 429) and any(word in text for word in _POOR)):
        return KeyTest("no_credit", f"the key is accepted, but has no credit left (HTTP {status})")
    if status in (401, 403) or (status == 400 and any(word in text for word in _WRONG_KEY)):
        reason = "the service requires a key" if key is None else "the service does not accept the key"
        return KeyTest("refused", f"{reason} (HTTP {status})")
    if status == 429:
        return KeyTest("unreachable", "the service is limiting requests (HTTP 429); try again later")
    if status == 404:
        return KeyTest("not_understood", "no list of models at that address (HTTP 404)")
    return KeyTest("unreachable", f"the service responded with HTTP {status}")
