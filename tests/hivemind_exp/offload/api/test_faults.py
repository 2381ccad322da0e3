"""Errors as real services send them are classified by status and code first, and by their words last."""

from __future__ import annotations

import json
import math
import time
from email.utils import formatdate
from typing import Any

import pytest

from hivemind_exp.offload.api.chat import read_answer
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, refusal

GROQ = {
    "message": "Rate limit reached for model `m` on tokens per minute (TPM): Limit 6000, Used 5800, Requested 600. "
    "Please try again in 1s. Upgrade at https://console.groq.com/settings/billing",
    "type": "tokens",
    "code": "rate_limit_exceeded",
}
GEMINI = {
    "code": 429,
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "24s"},
    ],
}
LITELLM_KEY = {"message": "No connected db.", "type": "no_db_connection", "param": None, "code": "400"}
OPENAI_FREE = {
    "message": "Rate limit reached for m on requests per min (RPM): Limit 3. Please add a payment method to your "
    "account to increase your rate limit. Visit https://platform.openai.com/account/billing to add a payment method.",
    "type": "requests",
    "code": "rate_limit_exceeded",
}
OPENAI_QUOTA = {
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "type": "insufficient_quota",
    "code": "insufficient_quota",
}
LITELLM_BUDGET = {
    "message": "Budget has been exceeded! Current cost: 0.2, Max budget: 0.1",
    "type": "budget_exceeded",
    "code": "400",
}
LITELLM_MODEL_BUDGET = {
    "message": "No deployments available - crossed budget: Exceeded budget for deployment model_name: m: 0.0028 >= 1d",
    "type": "internal_server_error",
    "code": "429",
}
OPENROUTER_FLAGGED = {
    "code": 403,
    "message": "Your input was flagged",
    "metadata": {"reasons": ["violence"], "flagged_input": "…"},
}
COUNTRY = {
    "message": "Country, region, or territory not supported",
    "type": "request_forbidden",
    "code": "unsupported_country_region_territory",
}
NO_ACCESS = {"message": "Project `p` does not have access to model `m`", "code": "model_not_found"}
GEMINI_KEY = {
    "code": 400,
    "message": "API key not valid. Please pass a valid API key.",
    "status": "INVALID_ARGUMENT",
    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
}
AZURE_FILTER = {
    "message": "The response was filtered",
    "code": "content_filter",
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}
CLOUDFLARE = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"


@pytest.mark.parametrize(
    ("status", "error", "trouble", "quoted"),
    [
        (429, GROQ, FaultKind.SLOW_DOWN, "Limit 6000"),
        (429, GEMINI, FaultKind.SLOW_DOWN, "exceeded your current quota"),
        (429, OPENAI_FREE, FaultKind.SLOW_DOWN, "Limit 3"),
        (429, OPENAI_QUOTA, FaultKind.NO_CREDIT, "exceeded your current quota"),
        (429, {"message": "Insufficient balance"}, FaultKind.NO_CREDIT, "Insufficient balance"),
        (429, {"message": "Too fast. No credits were charged."}, FaultKind.SLOW_DOWN, "No credits were charged"),
        (402, {"message": "Payment required"}, FaultKind.NO_CREDIT, "Payment required"),
        (400, LITELLM_BUDGET, FaultKind.NO_CREDIT, "Budget has been exceeded"),
        (429, LITELLM_MODEL_BUDGET, FaultKind.NO_CREDIT, "crossed budget"),
        (403, OPENROUTER_FLAGGED, FaultKind.BAD_REQUEST, "Your input was flagged"),
        (403, COUNTRY, FaultKind.FORBIDDEN, "territory not supported"),
        (403, NO_ACCESS, FaultKind.FORBIDDEN, "does not have access to model"),
        (403, {"message": "Your credit balance is too low"}, FaultKind.NO_CREDIT, "credit balance is too low"),
        (400, GEMINI_KEY, FaultKind.REFUSED, 'the API key was rejected: "API key not valid'),
        (401, {"message": "Unauthorized"}, FaultKind.REFUSED, "the API key was rejected: Unauthorized"),
        (400, LITELLM_KEY, FaultKind.REFUSED, 'the API key was rejected: "No connected db."'),
        (400, AZURE_FILTER, FaultKind.BAD_REQUEST, "The response was filtered"),
        (503, {"message": "Loading model"}, FaultKind.BUSY, "Loading model"),
        (504, {"message": "Gateway Timeout"}, FaultKind.BUSY, "Gateway Timeout"),
    ],
)
def test_answers_of_real_services(status: int, error: dict[str, Any], trouble: FaultKind, quoted: str) -> None:
    fault = refusal(status, json.dumps({"error": error}).encode(), {})
    assert fault.trouble is trouble
    assert fault.detail.startswith(f"HTTP {status}: ")
    assert quoted in fault.detail
    # Google's services send a list of one.
    assert refusal(status, json.dumps([{"error": error}]).encode(), {}).trouble is trouble


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}"])
def test_a_rejected_key_without_a_reason(content: bytes) -> None:
    assert refusal(401, content, {}).detail == "HTTP 401: the API key was rejected"


def test_a_firewalls_page_is_not_a_rejected_key() -> None:
    fault = refusal(403, CLOUDFLARE, {})
    assert fault.trouble is FaultKind.BUSY
    assert fault.detail == "HTTP 403: a web page, perhaps from a firewall or proxy"


@pytest.mark.parametrize(
    ("headers", "error", "wait"),
    [
        ({"retry-after": "7"}, {}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, {}, 1.5),
        ({"retry-after": "1m30s"}, {}, 90.0),
        ({"llm_provider-retry-after": "60"}, {}, 60.0),
        ({}, GEMINI, 24.0),
        ({"retry-after": "3"}, GEMINI, 3.0),
        ({"retry-after": "soon"}, {}, None),
        ({"retry-after": "inf"}, {}, math.inf),
        ({}, {"details": [{"retryDelay": "never"}, "nonsense", {"retryDelay": {}}]}, None),
    ],
)
def test_the_wait_is_a_number_a_duration_or_googles_retry_info(
    headers: dict[str, str], error: dict[str, Any], wait: float | None
) -> None:
    assert refusal(429, json.dumps({"error": error}).encode(), headers).wait == wait


def test_the_wait_may_be_a_date() -> None:
    later = refusal(429, b"", {"retry-after": formatdate(time.time() + 60, usegmt=True)}).wait
    assert later is not None
    assert 50 < later <= 60
    assert refusal(429, b"", {"retry-after": formatdate(0, usegmt=True)}).wait == 0.0


def answer(**choice: Any) -> bytes:
    usage = {"prompt_tokens": 20.0, "completion_tokens": "8", "total_tokens": 28.0}
    return json.dumps({"model": "m", "choices": [{"index": 0, **choice}], "usage": usage}).encode()


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hidden"}]}


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": "plain"}}, "plain"),
        ({"message": {"content": [THINKING, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}, "ab"),
        ({"text": "legacy"}, "legacy"),
        ({"message": {"content": None, "reasoning_content": "long"}, "finish_reason": "length"}, ""),
        ({"message": {"content": "half"}, "finish_reason": "error"}, ""),
        ({"message": {"content": "half"}, "error": {"code": 502, "message": "Provider disconnected"}}, ""),
        ({"message": {"content": [None, 1, {"type": "text", "text": None}]}}, ""),
        ({"message": None}, ""),
    ],
)
def test_text_is_read_from_every_form(choice: dict[str, Any], text: str) -> None:
    read = read_answer(answer(**choice), {})
    assert read.choices[0].text == text
    assert read.usage is not None
    assert (read.usage.prompt, read.usage.completion) == (20, 8)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_every_spelling_of_the_length_limit_is_understood(reason: str) -> None:
    assert read_answer(answer(message={"content": "x"}, finish_reason=reason), {}).choices[0].truncated


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "RECITATION"])
def test_every_spelling_of_a_filter_is_understood(reason: str) -> None:
    assert read_answer(answer(message={"content": "x"}, finish_reason=reason), {}).choices[0].filtered


def test_one_invalid_byte_does_not_lose_an_answer() -> None:
    whole = answer(message={"content": "word"})
    assert read_answer(whole.replace(b"word", b"w\xffrd"), {}).choices[0].text == "w\ufffdrd"
    assert read_answer(b"\xef\xbb\xbf" + whole, {}).choices[0].text == "word"


@pytest.mark.parametrize(
    ("document", "trouble"),
    [
        ({"choices": [], "error": {"code": 429, "message": "slow"}}, FaultKind.SLOW_DOWN),
        ({"choices": None, "error": {"code": 502, "message": "upstream"}}, FaultKind.BUSY),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, FaultKind.BAD_REQUEST),
        ({"error": "upstream exploded", "choices": None}, FaultKind.BUSY),
    ],
)
def test_errors_with_status_200_are_errors(document: dict[str, Any], trouble: FaultKind) -> None:
    with pytest.raises(RequestFailed) as raised:
        read_answer(json.dumps(document).encode(), {})
    assert raised.value.trouble is trouble
