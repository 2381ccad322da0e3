"""Test the server without faults, and its ledger, through the official SDK."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from tests.support.fake_api.ask import default_answer, digest
from tests.support.fake_api.client import PROMPT, ask, connect, settled
from tests.support.fake_api.faults import TRANSIENT, Fault, Trouble
from tests.support.fake_api.ledger import Outcome, Snapshot
from tests.support.fake_api.limits import SlidingWindow, format_duration
from tests.support.fake_api.remote import api_process
from tests.support.fake_api.server import ApiServer, api_server


@pytest.mark.slow
def test_answer_usage_and_ledger_entry(server: ApiServer) -> None:
    answer = ask(server, logprobs=True, temperature=0.5)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [default_answer(PROMPT, 0), default_answer(PROMPT, 1)]
    assert "".join(token.token for token in answer.choices[0].logprobs.content) == texts[0]
    (entry,) = server.ledger.chats
    assert (entry.key, entry.model, entry.n, entry.digest) == ("k", "test-model", 2, digest(PROMPT))
    assert entry.parameters == {"logprobs": True, "temperature": 0.5}
    assert "authorization" not in entry.headers
    assert (entry.outcome, entry.status, entry.texts) == (Outcome.DELIVERED, 200, texts)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        entry.prompt_tokens,
        entry.completion_tokens,
    )
    assert server.usd(1e6, 0) == entry.prompt_tokens
    assert server.usd(0, 1e6) == entry.completion_tokens == sum(len(text) // 4 + 1 for text in texts)
    assert [choice.message.content for choice in ask(server).choices] == [
        default_answer(PROMPT, 2),
        default_answer(PROMPT, 3),
    ]


@pytest.mark.parametrize(
    ("limit", "content", "tokens"), [(20, "x" * 39, 20), (10, "", 10), (4, "", 4), (40, "x" * 100, 36)]
)
def test_hidden_reasoning_uses_up_the_limit(limit: int, content: str, tokens: int) -> None:
    with api_server(answer=lambda _messages, _index: "x" * 100, reasoning=10) as server:
        answer = ask(server, n=1, max_completion_tokens=limit)
    assert answer.choices[0].message.content == content
    assert answer.choices[0].finish_reason == ("stop" if len(content) == 100 else "length")
    assert answer.usage.completion_tokens == tokens == server.ledger.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens == min(10, limit)


@pytest.mark.slow
def test_keys_are_required_and_can_be_revoked() -> None:
    with api_server(keys=["good", "other"]) as server:
        ask(server, "good")
        for revoke in (False, True):
            if revoke:
                server.revoke("good")
            with pytest.raises(openai.AuthenticationError):
                ask(server, "good" if revoke else "bad")
        ask(server, "other")
        assert [(entry.key, entry.status) for entry in server.ledger.entries] == [
            ("good", 200),
            ("bad", 401),
            ("good", 401),
            ("other", 200),
        ]


@pytest.mark.parametrize(
    ("options", "parameters", "status", "param"),
    [
        ({"rejects": ["max_tokens", "temperature"]}, {"max_tokens": 5}, 400, "max_tokens"),
        ({"rejects": ["max_tokens", "temperature"]}, {"temperature": 1}, 400, "temperature"),
        ({"strict": True}, {"extra_body": {"top_k": 1}}, 422, None),
        ({}, {"model": "nobody"}, 404, None),
        ({}, {"messages": []}, 400, "messages"),
        ({}, {"n": 0}, 400, "n"),
    ],
)
def test_invalid_requests_are_refused(
    options: dict[str, Any], parameters: dict[str, Any], status: int, param: str | None
) -> None:
    with api_server(**options) as server:
        with pytest.raises(openai.APIStatusError) as raised:
            ask(server, **parameters)
        assert (raised.value.status_code, getattr(raised.value, "param", None)) == (status, param)
        assert server.usd(1, 1) == 0


def test_services_with_fewer_features() -> None:
    with api_server(single=True, logprobs=False, models=["a", "b"], amend=lambda _ask, body: body | {"x": 1}) as server:
        answer = ask(server, model="b", n=3, logprobs=True)
    assert (len(answer.choices), answer.choices[0].logprobs, answer.x) == (1, None, 1)


def test_a_window_slides() -> None:
    window = SlidingWindow(per_minute=600, window=1)
    for now in (0.0, 0.5):
        assert window.wait(now, 5) == 0
        window.take(now, 5)
    assert window.remaining(0.9) == 0
    assert window.wait(0.75, 1) == 0.25
    assert window.wait(0.75, 6) == 0.75
    assert window.reset(0.75) == 0.75
    assert window.wait(0.75, 11) == math.inf
    assert window.remaining(1.0) == 5
    texts = {0: "0ms", 0.017: "17ms", 1: "1s", 1.2: "1.2s", 360: "6m0s", 3723.5: "1h2m3.5s"}
    assert {seconds: format_duration(seconds) for seconds in texts} == texts


def test_rate_limits_report_how_long_to_wait() -> None:
    with api_server(rpm=3, tpm=1000) as server:

        async def job() -> list[Any]:
            async with connect(server) as client:
                create = client.chat.completions.with_raw_response.create
                rows = [await create(model="test-model", messages=PROMPT, max_tokens=50) for _ in range(3)]
                with pytest.raises(openai.RateLimitError) as raised:
                    await create(model="test-model", messages=PROMPT, max_tokens=50)
                server.set(rpm=None, tpm=100)
                with pytest.raises(openai.RateLimitError, match="too large") as never:
                    await create(model="test-model", messages=PROMPT, max_tokens=50, n=2)
                return [row.headers for row in rows] + [raised.value.response.headers, never.value.response.headers]

        *good, refused, never = asyncio.run(job())
    assert [headers["x-ratelimit-remaining-requests"] for headers in good] == ["2", "1", "0"]
    assert [headers["x-ratelimit-remaining-tokens"] for headers in good] == ["946", "892", "838"]
    assert good[0]["x-ratelimit-limit-requests"] == "3"
    assert re.fullmatch(r"(\d+m)?\d+(\.\d+)?s", good[0]["x-ratelimit-reset-tokens"])
    assert 0 < int(refused["retry-after"]) <= 60
    assert 0 < int(refused["retry-after-ms"]) <= 60_000
    assert "retry-after" not in never
    assert server.ledger.outcomes() == {"delivered": 3, "refused": 2}


async def _ask_until_clean(client: AsyncOpenAI, prompt: list[Any], paid: list[tuple[int, int]]) -> list[str]:
    """Request until four texts have arrived, like a careful client; ``paid`` collects the usage of each answer."""
    texts: list[str] = []
    while len(texts) < 4:
        try:
            answer = await client.chat.completions.create(model="test-model", messages=prompt, n=4 - len(texts))
        except (openai.OpenAIError, json.JSONDecodeError):
            continue
        if isinstance(answer, ChatCompletion) and answer.usage:
            paid.append((answer.usage.prompt_tokens, answer.usage.completion_tokens))
            texts += [choice.message.content or "" for choice in answer.choices]
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("start", [api_server, api_process])
def test_ledger_agrees_with_a_careful_client(start: Callable[..., Any]) -> None:
    prompts = [[{"role": "user", "content": f"question {i}"}] for i in range(60)]
    kinds = [*TRANSIENT, Fault.FEWER]
    paid: list[tuple[int, int]] = []
    with start(fault_rate=0.5, fault_kinds=kinds, seed=1, latency=0.002) as server:

        async def job() -> list[list[str]]:
            async with connect(server) as client:
                return await asyncio.gather(*[_ask_until_clean(client, prompt, paid) for prompt in prompts])

        got = asyncio.run(job())
        ledger = server.ledger
    assert set(ledger.faults()) == {str(kind) for kind in kinds}
    assert {digest(prompt): texts for prompt, texts in zip(prompts, got, strict=True)} == ledger.texts()
    assert len({text for texts in got for text in texts}) == 240
    delivered = ledger.where(lambda entry: entry.outcome is Outcome.DELIVERED)
    assert (sum(row[0] for row in paid), sum(row[1] for row in paid)) == (
        delivered.prompt_tokens,
        delivered.completion_tokens,
    )
    assert ledger.usd(1, 1) > delivered.usd(1, 1)
    assert 1 < ledger.peak <= 60


def test_client_that_disconnects_is_billed(server: ApiServer) -> None:
    server.set(latency=60)
    with pytest.raises(openai.APITimeoutError):
        ask(server, timeout=0.2)
    ledger = asyncio.run(settled(server))
    assert ledger.outcomes() == {"abandoned": 1}
    assert ledger.completion_tokens > 0


def test_a_service_goes_down_and_comes_back(server: ApiServer) -> None:
    async def job() -> None:
        async with connect(server) as client:
            await client.models.list()
            for _ in range(2):
                with server.down():
                    with pytest.raises(openai.APIConnectionError):
                        await client.models.list()
                assert [model.id async for model in client.models.list()] == ["test-model"]

    asyncio.run(job())


@pytest.mark.slow
def test_a_server_process_accepts_the_same_commands() -> None:
    with api_process(keys=["k", "l"], answer="tests.support.fake_api.ask:default_answer") as server:
        server.next(Trouble(Fault.RATE_LIMIT, seconds=7))
        with pytest.raises(openai.RateLimitError) as raised:
            ask(server)
        assert raised.value.response.headers["retry-after"] == "7"
        server.always(Fault.FEWER)
        assert len(ask(server).choices) == 1
        server.always(None)
        server.set(single=True)
        assert len(ask(server, n=5).choices) == 1
        server.revoke("k")
        with pytest.raises(openai.AuthenticationError):
            ask(server)
        ask(server, "l")
        assert server.ledger.outcomes() == {"delivered": 3, "refused": 2}
        assert server.usd(1, 1) == Snapshot.from_json(server.ledger.to_json()).usd(1, 1) > 0
