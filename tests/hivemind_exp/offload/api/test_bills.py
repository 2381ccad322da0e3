"""Which failed requests cost nothing, and which may be billed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hivemind_exp.connection_errors import TRUST
from hivemind_exp.offload.api.chat import ChatClient, SamplingParams, read_answer
from hivemind_exp.offload.api.faults import RequestFailed, refusal
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.tls import certificate, https_server
from tests.support.tunnels import tunnels

SAMPLING = SamplingParams(temperature=0.7, max_tokens=100, reasoning_tokens=1000, reasoning_effort="low")
MESSAGES = ({"role": "user", "content": "hi"},)
ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"


@pytest.mark.parametrize(
    ("status", "text", "billed"),
    [
        *((status, "", True) for status in (408, 499, 500, 502, 504, 520, 524)),
        (500, '{"error": {"message": "The server had an error", "type": "server_error"}}', True),
        (500, '{"error": {"message": "Limit reached", "code": "rate_limit_exceeded"}}', False),
        (503, '{"error": {"message": "The engine is currently overloaded"}}', False),
        (529, '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}', False),
        (503, ENVOY, True),
        (503, "<html>", True),
        *((status, "", False) for status in (400, 404, 422, 429, 521, 522, 523)),
    ],
)
def test_only_a_rejected_request_is_surely_free(status: int, text: str, billed: bool) -> None:
    assert refusal(status, text.encode(), {}).billed is billed


@pytest.mark.parametrize(("name", "free"), [("openrouter", (500, 502)), ("gemini", (500,)), ("openai", ())])
def test_errors_cost_nothing_where_the_documentation_says_so(name: str, free: tuple[int, ...]) -> None:
    error, unbilled = b'{"error": {"message": "boom"}}', PROVIDERS[name].chat.unbilled_errors  # type: ignore[union-attr]
    assert [each for each in (500, 502, 504) if not refusal(each, error, {}, unbilled).billed] == list(free)
    assert refusal(500, b"<html>", {}, unbilled).billed, "not the service's own answer"
    assert refusal(500, error[:-1] + b', "usage": {"total_tokens": 7}}', {}, unbilled).billed, "it says otherwise"


@pytest.mark.parametrize("status", [408, 502, 504, 524])
def test_a_gateway_that_lost_an_answer_does_not_know_that_it_was_free(status: int) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    answer = json.dumps({"error": {"message": "upstream timed out"}, "usage": usage}).encode()
    assert refusal(status, answer, {}).billed
    assert not refusal(500, answer, {}).billed, "the service itself says so"


@pytest.mark.parametrize("name", ["completion_tokens", "input_tokens", "output_tokens"])
def test_a_rejected_request_is_billed_if_the_error_says_so(name: str) -> None:
    assert refusal(400, json.dumps({"error": "no JSON", "usage": {name: 8}}).encode(), {}).billed


@pytest.mark.parametrize("code", [502, "502", 700, "busy", None])
def test_an_error_with_status_200_has_the_status_in_its_body(code: Any) -> None:
    with pytest.raises(RequestFailed) as raised:
        read_answer(json.dumps({"error": {"message": "Provider returned error", "code": code}}).encode(), {}, {502})
    known = str(code) == "502"
    assert (raised.value.status, raised.value.billed) == ((502, False) if known else (500, True))


AZURE_FILTER = {
    "message": "The response was filtered due to the prompt triggering a content management policy.",
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}


@pytest.mark.parametrize(
    ("status", "document", "billed"),
    [
        (400, {"error": AZURE_FILTER}, True),
        (400, {"error": {"message": "The prompt is flagged.", "code": "content_policy_violation"}}, False),
        (500, {"error": {"message": "boom"}, "usage": {"prompt_tokens": 20, "completion_tokens": 3}}, True),
        (500, {"error": {"message": "boom"}, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, False),
        (500, {"error": {"message": "boom"}, "usage": "none"}, True),
    ],
)
def test_an_error_that_comes_with_a_bill_is_billed(status: int, document: dict[str, Any], billed: bool) -> None:
    assert refusal(status, json.dumps(document).encode(), {}).billed is billed
    with pytest.raises(RequestFailed) as raised:
        read_answer(json.dumps(document | {"choices": []}).encode(), {})
    assert raised.value.billed is billed


@pytest.mark.parametrize(
    ("said", "billed"),
    [
        ("litellm.InternalServerError: InternalServerError: OpenAIException - Connection error.", True),
        ("litellm.InternalServerError: InternalServerError: OpenAIException - Invalid response object", True),
        ("litellm.InternalServerError: OpenAIException - Expecting property name: line 1 column 268", True),
        ("litellm.ServiceUnavailableError: OpenAIException - boom", False),
        ("Connection error", False),
    ],
)
def test_an_answer_that_litellm_lost_may_be_billed(said: str, billed: bool) -> None:
    assert refusal(503, json.dumps({"error": {"message": said}}).encode(), {}).billed is billed
    assert not refusal(429, json.dumps({"error": {"message": said}}).encode(), {}).billed


def request(server: ApiServer | None, url: str = "http://127.0.0.1:9/v1") -> RequestFailed:
    """Return why a request to ``server`` failed; None: to ``url``. By default, nothing listens there."""

    async def fail() -> RequestFailed:
        chat = PROVIDERS["vllm"].chat
        assert chat is not None
        base_url = url if server is None else server.base_url
        client = ChatClient(Endpoint("box", base_url, "test-model", chat, needs_key=False), None, seconds=2)
        try:
            with pytest.raises(RequestFailed) as raised:
                await client.ask(MESSAGES, 1, SAMPLING, 0)
        finally:
            await client.close()
        return raised.value

    return asyncio.run(fail())


@pytest.mark.slow
def test_only_a_request_that_was_never_sent_is_free() -> None:
    with api_server() as server:
        for fault in (Fault.DROPPED, Fault.RESET, Fault.STALL, Fault.LOST_GATEWAY):
            server.next(fault)
            failed = request(server)
            assert (failed.sent, failed.billed) == (True, True), fault
        assert server.ledger.completion_tokens > 0
    failed = request(None)
    assert (failed.sent, failed.billed) == (False, False)
    assert failed.detail == "cannot connect to 127.0.0.1:9: connection refused"


def test_a_request_that_no_proxy_took_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("http", "socks5"):
        monkeypatch.setenv("ALL_PROXY", f"{kind}://127.0.0.1:9")
        failed = request(None, "https://llm.example/v1")
        assert (failed.sent, failed.billed) == (False, False)
        assert failed.detail == "cannot connect to llm.example through the proxy in $ALL_PROXY: connection refused"


def test_a_connection_that_a_socks_proxy_loses_may_be_billed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = certificate(tmp_path / "own.pem", "llm.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    with https_server(own) as url, tunnels(urlsplit(url).port or 0) as proxy:  # the server knows no POST
        monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.address}")
        assert request(None, "https://llm.example/v1").sent
        monkeypatch.delenv("SSL_CERT_FILE")
        failed = request(None, "https://llm.example/v1")
    assert (failed.sent, failed.billed) == (False, False)
    assert failed.detail.endswith(f"its certificate is not trusted: self-signed certificate. {TRUST}")
