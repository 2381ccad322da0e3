"""Requests contain only what a service takes; answers are parsed as untrusted text."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.config import Config
from hivemind_exp.offload.api.chat import ChatClient, Choice, read_answer
from hivemind_exp.offload.api.dialect import RequestDialect, SamplingParams, body, most_tokens
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, refusal
from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.settings import Endpoint, first_endpoint
from hivemind_exp.providers import PROVIDERS, Chat

SAMPLING = SamplingParams(temperature=0.7, max_tokens=100, reasoning_tokens=1000, reasoning_effort="low")
MESSAGES = ({"role": "user", "content": "hi"},)


def asked(name: str, model: str, count: int = 2, **changes: Any) -> dict[str, Any]:
    chat = PROVIDERS[name].chat
    assert chat is not None
    endpoint = Endpoint(name, "http://box/v1", model, chat, needs_key=True)
    style = RequestDialect(chat.max_tokens, supports_n=chat.group == "n", reasons=endpoint.reasons, **changes)
    return body(endpoint, style, MESSAGES, count, SAMPLING, 2**40 + 5)


def test_requests_to_plain_and_reasoning_models() -> None:
    plain = asked("openai", "gpt-4o-mini")
    assert plain == {
        "model": "gpt-4o-mini",
        "messages": list(MESSAGES),
        "max_completion_tokens": 100,
        "temperature": 0.7,
        "n": 2,
        "seed": 5,
        "reasoning_effort": "low",
    }
    for name, model in (("openai", "gpt-6-luna"), ("deepseek", "deepseek-flash"), ("cerebras", "qwen-3.8-27b")):
        thinking = asked(name, model)
        limit = thinking.get("max_completion_tokens", thinking.get("max_tokens"))
        # The user's parameters are sent. If a service rejects one, the request is repeated without it.
        assert (limit, thinking["reasoning_effort"], thinking["temperature"]) == (1100, "low", 0.7)


def test_services_get_only_parameters_they_know() -> None:
    always = {"model", "messages", "max_tokens", "temperature", "reasoning_effort"}
    assert set(asked("deepseek", "deepseek-flash", 1)) == always
    assert set(asked("transformers", "any", 1)) == always
    assert "reasoning_effort" not in asked("deepseek", "deepseek-flash", unsupported_params={"reasoning_effort"})


@pytest.mark.parametrize(
    ("message", "longest"),
    [
        (
            "This model's maximum context length is 256 tokens. However, you requested 1024 output tokens and your "
            "prompt contains at least 56 input tokens, for a total of at least 1080 tokens.",
            100,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 300. This model's maximum context length is 256 "
            "tokens and your request has 56 input tokens (300 > 256 - 56).",
            100,
        ),
        (
            "max_completion_tokens=1024 cannot be greater than max_model_len=512. Please request fewer output tokens. "
            "(parameter=max_completion_tokens, value=1024)",
            256,
        ),
        (
            "This model's maximum context length is 64 tokens. However, you requested 300 tokens (200 in the messages, "
            "100 in the completion).",
            None,
        ),
    ],
)
def test_a_small_context_limits_completions(message: str, longest: int | None) -> None:
    style = RequestDialect("max_tokens", supports_n=False)
    assert style.adapt(message, first=True) is (longest is not None)
    assert style.longest == longest
    assert most_tokens(style, SAMPLING) == SAMPLING.max_tokens
    assert most_tokens(style, replace(SAMPLING, max_tokens=1024)) == (longest or 1024)
    later = RequestDialect("max_tokens", supports_n=False)
    later.adapt(message)
    assert later.longest is None, "one long prompt must not shorten all completions"


@pytest.mark.parametrize("length", [3, 13])
def test_a_key_split_over_parts_of_an_answer_is_removed(length: int) -> None:
    key = "sk-test-0123456789abcdef01"
    texts = ["a ", *(key[begin : begin + length] for begin in range(0, len(key), length)), " b"]
    message = {"content": [{"type": "text", "text": text} for text in texts], "reasoning": f"I see {key}"}
    answer = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()

    async def read() -> Choice:
        client = ChatClient(Endpoint("box", "http://127.0.0.1:9/v1", "m", Chat(), needs_key=True), key, seconds=1)
        try:
            return client.joined_without_key(read_answer(client.without_key(answer), {})).choices[0]
        finally:
            await client.close()

    found = asyncio.run(read())
    assert (found.text[:2], found.text[-2:]) == ("a ", " b")
    assert not any(key[begin : begin + 12] in found.text for begin in range(8, len(key) - 11))
    assert "(the key)" in found.text
    assert found.instead == "I see (the key)"


def test_instructions_move_into_the_users_message_if_a_model_has_no_system_role() -> None:
    chat = PROVIDERS["vllm"].chat
    assert chat is not None
    style = RequestDialect("max_tokens", supports_n=False)
    assert style.adapt("System role not supported")
    assert not style.adapt("System role not supported")
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": "What?"})
    asked = body(Endpoint("vllm", "", "m", chat, needs_key=False), style, messages, 1, SAMPLING, 0)
    assert asked["messages"] == [{"role": "user", "content": "Answer.\n\nWhat?"}]


def test_flex_is_requested_if_the_service_has_it() -> None:
    flex = replace(SAMPLING, service_tier="flex")
    for name, tier in (("openai", "flex"), ("gemini", "flex"), ("groq", None)):
        chat = PROVIDERS[name].chat
        assert chat is not None
        endpoint = Endpoint(name, "http://box/v1", "m", chat, needs_key=True)
        style = RequestDialect(chat.max_tokens, supports_n=False)
        assert body(endpoint, style, MESSAGES, 1, flex, 0).get("service_tier") == tier


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", True),
        ("temperature does not support 0.7 with this model", True),
        ("n must be 1", True),
        ("the model is not known", False),
    ],
)
def test_error_messages_adapt_parameters_only_once(message: str, changed: bool) -> None:
    style = RequestDialect("max_tokens", supports_n=True)
    assert style.adapt(message) is changed
    assert style.adapt(message) is False


def test_only_requests_to_the_own_policy_turn_off_sampling_defaults() -> None:
    box = {"base_url": "http://box/v1", "model": "m", "free": True}

    def sent(kind: str) -> dict[str, Any]:
        offload = {"provider": "box", "kind": kind}
        config = Config.model_validate({"offload": offload, "providers": {"box": box}})
        style = RequestDialect("max_tokens", supports_n=True)
        assert style.adapt("unknown field: min_p")
        return body(first_endpoint(config), style, (), 1, SamplingParams.of(config), 0)

    plain = {"top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert {name: sent("policy_text").get(name) for name in (*plain, "min_p")} == plain | {"min_p": None}
    assert plain.keys().isdisjoint(sent("teacher"))


def answer(**changes: Any) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    choice = {"message": {"content": "text"}, "finish_reason": "stop"}
    return json.dumps({"model": "m", "choices": [choice], "usage": usage} | changes).encode()


def test_answer_is_parsed() -> None:
    found = read_answer(answer(), {})
    assert (found.choices[0].text, found.usage, found.model) == ("text", Usage(5, 7), "m")


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": "many", "completion_tokens": 2}, None),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 10}, Usage(1, 9)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 15},
            },
            Usage(10, 20, 4, 15),
        ),
    ],
)
def test_implausible_usage_is_ignored(usage: Any, read: Usage | None) -> None:
    assert read_answer(answer(usage=usage), {}).usage == read


def test_unencodable_answer_text_is_repaired() -> None:
    content = b'{"choices": [{"message": {"content": "a\\ud800b"}}]}'
    read_answer(content, {}).choices[0].text.encode()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_request_failed(content: bytes) -> None:
    with pytest.raises(RequestFailed) as caught:
        read_answer(b"\x00" + content, {})
    assert caught.value.billed


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.slow
@given(st.lists(json_values, max_size=3), json_values, json_values)
def test_arbitrary_json_raises_no_error(choices: list[Any], usage: Any, model: Any) -> None:
    choices += [{"message": value, "finish_reason": value} for value in choices]
    choices += [{"message": {"content": value}} for value in choices]
    for choice in read_answer(answer(choices=choices, usage=usage, model=model), {}).choices:
        assert isinstance(choice.text, str)


@pytest.mark.parametrize("content", [b'data: {"id":"1"}\n\ndata: [DONE]\n\n', b"event: message\ndata: {}\n\n"])
def test_an_event_stream_is_named(content: bytes) -> None:
    with pytest.raises(RequestFailed, match="an event stream, which was not requested"):
        read_answer(content, {})


def test_deeply_nested_json_does_not_crash_the_process() -> None:
    with pytest.raises(RequestFailed):
        read_answer(b"[" * 200_000, {})


@pytest.mark.parametrize(
    ("status", "text", "trouble"),
    [
        (401, "", FaultKind.REFUSED),
        (403, "forbidden", FaultKind.FORBIDDEN),
        (403, '{"error": {"message": "Insufficient credit"}}', FaultKind.NO_CREDIT),
        (402, "", FaultKind.NO_CREDIT),
        (429, '{"error": {"code": "insufficient_quota"}}', FaultKind.NO_CREDIT),
        (429, "slow", FaultKind.SLOW_DOWN),
        (409, "", FaultKind.BUSY),
        (503, '{"error": {"message": "overloaded"}}', FaultKind.BUSY),
        (522, "<html>", FaultKind.BUSY),
        (404, '{"error": "no such model"}', FaultKind.BAD_REQUEST),
        (422, '{"detail": [{"loc": ["body"]}]}', FaultKind.BAD_REQUEST),
        (307, "", FaultKind.BAD_REQUEST),
    ],
)
def test_status_codes_are_classified(status: int, text: str, trouble: FaultKind) -> None:
    fault = refusal(status, text.encode(), {"retry-after": "3"})
    assert (fault.trouble, fault.billed, fault.wait) == (trouble, False, 3.0)
    assert "<html>" not in fault.detail


@pytest.mark.parametrize(
    ("usage", "completion"),
    [
        ({"total_tokens": 520}, 500),
        ({"completion_tokens_details": {"reasoning_tokens": 490}}, 498),
        ({"completion_tokens_details": {"reasoning_tokens": 5}}, 8),
        ({"total_tokens": 518, "completion_tokens_details": {"reasoning_tokens": 490}}, 498),
    ],
)
def test_hidden_reasoning_outside_the_completion_is_counted(usage: dict[str, Any], completion: int) -> None:
    counted = read_answer(answer(choices=[], usage={"prompt_tokens": 20, "completion_tokens": 8} | usage), {}).usage
    assert counted is not None
    assert counted.completion == completion


@pytest.mark.parametrize(
    ("usage", "headers", "usd"),
    [
        ({"cost": 0.25}, {}, 0.25),
        ({"cost": "0.25"}, {}, 0.25),
        ({"cost": {"total_cost": 0.25}}, {}, 0.25),
        ({"estimated_cost": 0.25}, {}, 0.25),
        ({"cost_in_usd_ticks": 2_500_000_000}, {}, 0.25),
        ({}, {"x-litellm-response-cost": "0.25"}, 0.25),
        ({"cost": -1}, {}, 0.0),
        ({"cost": "NaN"}, {"x-litellm-response-cost": "None"}, 0.0),
        ({"cost": True}, {}, 0.0),
        ({"cost": 1e400}, {}, 0.0),
        ({"cost": "1e400", "estimated_cost": 0.5}, {}, 0.5),
        ({"cost_in_usd_ticks": 1e40}, {}, 0.0),
    ],
)
def test_what_a_service_says_it_charged_is_read(usage: dict[str, Any], headers: dict[str, str], usd: float) -> None:
    read = read_answer(answer(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1} | usage), headers)
    assert read.usage is not None
    assert read.usage.charged == pytest.approx(usd)


def test_every_provider_s_request_has_its_token_limit() -> None:
    for row in PROVIDERS.values():
        if row.chat is not None:
            style = RequestDialect(row.chat.max_tokens, supports_n=row.chat.group == "n")
            endpoint = Endpoint(row.name, row.base_url, "m", row.chat, row.needs_key)
            assert row.chat.max_tokens in body(endpoint, style, MESSAGES, 1, SAMPLING, 0)
    assert Chat().training == "unknown"
