"""Why a request failed, decided by the service's status and codes first and by its words last.

Words mislead: the ordinary rate limits of several services mention billing, and "no credits were charged" is good news.
What the service said is always quoted.
"""

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.rate_limit import duration


class FaultKind(StrEnum):
    """Kinds of failure, grouped by what can be done about them. The values appear in messages."""

    SLOW_DOWN = "rate limited"
    BUSY = "temporarily unavailable"
    BROKEN = "connection failed or response invalid"
    TIMEOUT = "timed out"
    REFUSED = "authentication failed"
    FORBIDDEN = "not allowed"
    NO_CREDIT = "out of credit"
    BAD_REQUEST = "request rejected"
    USELESS = "useless answers"
    """The service answers, but none of its answers can be used."""


@dataclass(eq=False)
class RequestFailed(Exception):
    """A request that returned no completions."""

    trouble: FaultKind
    detail: str
    """Description for people; never contains the API key."""
    _: KW_ONLY
    wait: float | None = None
    """Seconds that the service asks to wait."""
    billed: bool = False
    """Whether the service may have done the work, so that the reserve stays spent."""
    sent: bool = True
    """Whether the request reached the service."""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    """The HTTP status of an answer that is an error; None for other failures."""
    sent_at: float | None = None
    """When the request was sent, on the event loop's clock; None if unknown."""
    next: str | None = None
    """A command that helps, if the kind of failure does not say enough."""

    def __str__(self) -> str:
        return self.detail


def broken(detail: str) -> RequestFailed:
    """Return the failure for a broken connection or an invalid answer.

    It counts as billed, because the service may have done the work.
    """
    return RequestFailed(FaultKind.BROKEN, detail, billed=True)


_LOST_ANSWER = (408, 499, 502, 504, 520, 524)
"""Statuses of a gateway that forwarded the request and got no answer, or none that it understands (520 and 524:
Cloudflare), or believes that nobody waits for it (499: nginx). A service's own 408 says that it worked on the request
until its time limit, which Azure bills."""
_NOT_TAKEN = (501, 503, 529)
"""Statuses with which a service rejects a request before it works on it. A proxy may use them for a lost answer, too
(Envoy: 503), but its answer is not the JSON of an API."""
_UNREACHED = (521, 522, 523, 525, 526)
"""Cloudflare's statuses for a service that it could not connect to."""
_LITELLM_LOST = re.compile(r"litellm\..{0,200}(?:Connection error|Invalid response object|Expecting )", re.DOTALL)
"""What LiteLLM says, with status 500, when it loses the answer of the service behind it. It has no code for this."""
_CREDIT = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",
        "credits_exhausted",
        "payment_required",
    }
)
_RATE = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limited",
        "rate_limit",
        "too_many_requests",
        "resource_exhausted",
        "tokens",
        "requests",
        "engine_overloaded",
    }
)
_KEY = frozenset(
    {
        "invalid_api_key",
        "api_key_invalid",
        "authentication_error",
        "invalid_authentication",
        "unauthenticated",
        "invalid_key",
        "token_invalid",
        "no_db_connection",  # LiteLLM without a database, which knows only its master key
    }
)
_PROMPT = frozenset(
    {
        "content_policy_violation",
        "content_filter",
        "content_filter_error",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "flagged_input",
    }
)
"""Codes and types of errors, in lower case: out of credit, rate limited, a wrong key, one prompt against the rules."""
_BILLED_PROMPT = frozenset({"content_filter", "responsibleaipolicyviolation"})
"""Codes of Azure's filter, which bills the prompts that it rejects."""
_CREDIT_WORDS = re.compile(
    r"insufficient[ _](?:quota|balance|credits?|funds)|credit balance|out of credits?|no credits? (?:left|remaining)"
    r"|(?:crossed|exceeded) budget"  # LiteLLM's budget of a model, which has no code
)


def refusal(status: int, content: bytes, headers: Mapping[str, str], unbilled: Collection[int] = ()) -> RequestFailed:
    """Classify an answer whose status is not 200. ``unbilled``: statuses of errors that the service says are free.

    It costs nothing if the service rejected the request. It may cost something if the service or a gateway failed
    (services rarely say what they bill then), or if the service bills what it rejects.
    """
    text = content[:65536].decode("utf-8-sig", "replace")
    document = _parsed(text)
    codes = frozenset(_codes(document))
    quoted = _said(document) if document is not None else None if "<" in text else text
    said = short(quoted)
    wait = _wait(headers, document)
    if status == 402 or codes & _CREDIT:
        trouble = FaultKind.NO_CREDIT
    elif status == 401 or codes & _KEY:
        trouble, said = FaultKind.REFUSED, "the API key was rejected" + (f": {said}" if quoted else "")
    elif codes & _PROMPT:
        trouble = FaultKind.BAD_REQUEST
    elif status == 429:
        told = codes & _RATE or wait is not None or not _CREDIT_WORDS.search(text.lower())
        trouble = FaultKind.SLOW_DOWN if told else FaultKind.NO_CREDIT
    elif status == 403:
        trouble = _forbidden(text, document)
        said = "a web page, perhaps from a firewall or proxy" if trouble is FaultKind.BUSY else said
    elif status in (408, 409, 425, 499) or status >= 500:
        trouble = FaultKind.BUSY
    else:
        trouble = FaultKind.BAD_REQUEST
        said = "the server redirects to another address, which is not followed" if 300 <= status < 400 else said
    lost = status in _LOST_ANSWER or (status >= 500 and _LITELLM_LOST.search(text) is not None)
    its_own = isinstance(document, dict)
    rejected = status < 500 or trouble is not FaultKind.BUSY or status in _UNREACHED or bool(codes & _RATE)
    rejected = rejected or (its_own and status in _NOT_TAKEN)
    billed = lost or not rejected or bool(codes & _BILLED_PROMPT)
    stated = _stated_usage(document)
    if stated is not None and not (lost and not stated):  # a gateway that lost an answer does not know its usage
        billed = stated
    elif its_own and status in unbilled:
        billed = False
    return RequestFailed(trouble, f"HTTP {status}: {said}", wait=wait, billed=billed, headers=headers, status=status)


def _forbidden(text: str, document: Any) -> FaultKind:
    """Return what a 403 without a telling code means: a firewall's page, no credit, or a place or model not allowed."""
    if document is None and "<" in text:
        return FaultKind.BUSY
    return FaultKind.NO_CREDIT if _CREDIT_WORDS.search(text.lower()) else FaultKind.FORBIDDEN


def _parsed(text: str) -> Any:
    """Return the JSON object in an answer, or the first of several; None if it is not JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found[0] if isinstance(found, list) and found else found


def _said(document: Any) -> Any:
    error = document.get("error", document) if isinstance(document, dict) else None
    said = error.get("message") or error.get("error_message") if isinstance(error, dict) else error
    return said or (_detail(document.get("detail")) if isinstance(document, dict) else None)


def _detail(detail: Any) -> Any:
    """Return FastAPI's reasons for a status of 422 as text: each parameter with what is wrong with it."""
    rows = detail if isinstance(detail, list) else []
    told = [row for row in rows if isinstance(row, dict) and isinstance(row.get("loc"), list) and row.get("msg")]
    return "; ".join(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in told) or detail


def _error(document: Any) -> dict[str, Any]:
    error = document.get("error", document) if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")


def _stated_usage(document: Any) -> bool | None:
    """Return whether an error states that it used any tokens; None if it does not say."""
    usage = document.get("usage") if isinstance(document, dict) else None
    tokens = [usage.get(name) for name in _TOKENS] if isinstance(usage, dict) else []
    return any(tokens) if any(isinstance(each, int | float) for each in tokens) else None


def _details(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the details of an error as Google's services send them."""
    details = _error(document).get("details")
    yield from (each for each in details if isinstance(each, dict)) if isinstance(details, list) else ()


def _codes(document: Any) -> Iterator[str]:
    """Yield an error's codes and types, in lower case."""
    error = _error(document)
    values = [error.get(name) for name in ("code", "type", "status", "reason")]
    values += [each.get("reason") for each in _details(document)]
    inner = error.get("innererror")
    values += [inner.get("code")] if isinstance(inner, dict) else []
    yield from (value.lower() for value in values if isinstance(value, str))
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and "flagged_input" in metadata:  # OpenRouter's moderation
        yield "flagged_input"


def short(said: Any) -> str:
    """Return a service's reason, quoted."""
    return foreign(said) if said else "no reason given"


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _wait(headers: Mapping[str, str], document: Any) -> float | None:
    """Return the seconds to wait: from the headers, as a number, a duration or a date, or from Google's RetryInfo."""
    milliseconds = duration(headers.get("retry-after-ms", "-"))
    if milliseconds is not None:
        return milliseconds / 1000
    # LiteLLM forwards headers of the service behind it, and its own limits, under another name.
    stated = headers.get("retry-after", headers.get("llm_provider-retry-after", "-"))
    seconds = duration(stated)
    if seconds is None:
        with suppress(ValueError, TypeError, OverflowError):
            seconds = max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    delays = (duration(str(each["retryDelay"])) for each in _details(document) if "retryDelay" in each)
    return seconds if seconds is not None else next((delay for delay in delays if delay is not None), None)
