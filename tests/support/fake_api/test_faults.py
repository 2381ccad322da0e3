"""Test every fault, through the official SDK and in the server's ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support.fake_api.answers import ADDED_TOKENS
from tests.support.fake_api.ask import Ask, default_answer
from tests.support.fake_api.client import PROMPT, ask, connect, settled
from tests.support.fake_api.faults import ODD, Fault, Trouble
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import ApiServer

_REFUSED = {
    Fault.RATE_LIMIT: 429,
    Fault.RATE_LIMIT_BARE: 429,
    Fault.QUOTA: 429,
    Fault.NO_CREDIT: 402,
    Fault.UNAUTHORISED: 401,
    Fault.FORBIDDEN: 403,
    Fault.UNKNOWN_MODEL: 404,
    Fault.BAD_PARAMETER: 400,
    Fault.UNKNOWN_FIELD: 422,
    Fault.SMALL_CONTEXT: 400,
    Fault.TIMEOUT: 408,
    Fault.SERVER_ERROR: 500,
    Fault.UNAVAILABLE: 503,
    Fault.HTML_GATEWAY: 502,
}
_UNANSWERED = {
    Fault.CLOSE: Outcome.REFUSED,
    Fault.REDIRECT: Outcome.REFUSED,
    Fault.RESET: Outcome.BROKEN,
    Fault.DROPPED: Outcome.BROKEN,
    Fault.STALL: Outcome.BROKEN,
    Fault.STALL_BODY: Outcome.BROKEN,
    Fault.DRIP: Outcome.ABANDONED,
    Fault.SLOW: Outcome.ABANDONED,
}


@pytest.mark.parametrize(("fault", "status"), _REFUSED.items())
def test_refusals_cost_nothing(server: ApiServer, fault: Fault, status: int) -> None:
    server.next(fault)
    with pytest.raises(openai.APIStatusError) as raised:
        ask(server)
    assert raised.value.status_code == status
    assert ("retry-after" in raised.value.response.headers) == (fault is Fault.RATE_LIMIT)
    (entry,) = server.ledger.chats
    assert (entry.fault, entry.outcome, entry.status) == (fault, Outcome.REFUSED, status)
    assert server.usd(1, 1) == 0
    ask(server)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "outcome"), _UNANSWERED.items())
def test_a_request_without_a_complete_answer_fails(server: ApiServer, fault: Fault, outcome: Outcome) -> None:
    server.next(fault, seconds=30)
    with pytest.raises(openai.APIConnectionError):
        ask(server, timeout=0.5)
    ledger = asyncio.run(settled(server))
    assert ledger.chats[0].outcome is outcome
    assert bool(ledger.completion_tokens) == (outcome is not Outcome.REFUSED)
    assert ledger.texts() == {}
    ask(server)


_ODD: dict[Fault, Callable[[Any], bool]] = {
    Fault.ERROR_OK: lambda answer: answer.choices is None and answer.error["code"] == "502",
    Fault.HTML_OK: lambda answer: isinstance(answer, str) and answer.startswith("<!DOCTYPE"),
    Fault.FEWER: lambda answer: len(answer.choices) == 1,
    Fault.EXTRA: lambda answer: len(answer.choices) == 3,
    Fault.NO_CHOICES: lambda answer: answer.choices == [],
    Fault.EMPTY: lambda answer: {choice.message.content for choice in answer.choices} == {""},
    Fault.NULL: lambda answer: {choice.message.content for choice in answer.choices} == {None},
    Fault.LENGTH: lambda answer: {choice.finish_reason for choice in answer.choices} == {"length"},
    Fault.FILTERED: lambda answer: {choice.finish_reason for choice in answer.choices} == {"content_filter"},
    Fault.NULL_LOGPROBS: lambda answer: all(choice.logprobs is None for choice in answer.choices),
    Fault.OTHER_MODEL: lambda answer: answer.model == "test-model-other",
    Fault.NO_USAGE: lambda answer: answer.usage is None,
    Fault.NEGATIVE_USAGE: lambda answer: answer.usage.completion_tokens == -1000,
    Fault.STRING_USAGE: lambda answer: answer.usage.completion_tokens == "many",
    Fault.CHOICES_NOT_LIST: lambda answer: isinstance(answer.choices, dict),
    Fault.PARTS: lambda answer: isinstance(answer.choices[0].message.content, list),
    Fault.CHOICE_ERROR: lambda answer: {choice.finish_reason for choice in answer.choices} == {"error"},
    Fault.ADDED_PROMPT: lambda answer: answer.usage.prompt_tokens > ADDED_TOKENS,
}
"""For each odd answer, a check of what the client receives."""


@pytest.mark.parametrize("fault", _ODD)
def test_odd_answers(server: ApiServer, fault: Fault) -> None:
    server.next(fault)
    answer = ask(server, logprobs=True)
    assert _ODD[fault](answer)
    (entry,) = server.ledger.chats
    assert entry.outcome is (Outcome.DELIVERED if fault in ODD else Outcome.REFUSED)
    assert (entry.prompt_tokens > 0) == (fault in ODD)
    assert not _ODD[fault](ask(server, logprobs=True))


def test_usage_as_floats(server: ApiServer) -> None:
    """The SDK turns whole floats into integers, so the text is checked."""
    server.next(Fault.FLOAT_USAGE)

    async def raw() -> str:
        async with connect(server, "k", 20) as client:
            answer = await client.chat.completions.with_raw_response.create(model="test-model", messages=PROMPT)
            return answer.text

    assert isinstance(json.loads(asyncio.run(raw()))["usage"]["prompt_tokens"], float)


_LOST = {Fault.LOST_GATEWAY: 504, Fault.LOST_PROXY: 503, Fault.FAILED_LATE: 500}


@pytest.mark.parametrize(("fault", "status"), _LOST.items())
def test_a_failure_after_the_work_was_done_is_billed(server: ApiServer, fault: Fault, status: int) -> None:
    server.next(fault)
    with pytest.raises(openai.APIStatusError) as raised:
        ask(server)
    assert raised.value.status_code == status
    assert server.ledger.chats[0].outcome is Outcome.BROKEN
    assert server.ledger.completion_tokens > 0


def test_truncated_json_arrives_as_a_complete_body(server: ApiServer) -> None:
    server.next(Fault.TRUNCATED)
    with pytest.raises(json.JSONDecodeError):
        ask(server)
    assert server.ledger.chats[0].outcome is Outcome.BROKEN
    assert server.ledger.completion_tokens > 0


@pytest.mark.slow
def test_huge_and_late_answers_arrive(server: ApiServer) -> None:
    server.next(Fault.HUGE, size=3_000_000)
    server.next(Trouble(Fault.SLOW, seconds=0.1))
    server.next(Fault.DRIP, seconds=0.0001)
    for index in range(3):
        assert ask(server, n=1).choices[0].message.content == default_answer(PROMPT, index)
    assert server.ledger.outcomes() == {"delivered": 3}


def test_every_fault_is_covered_here() -> None:
    others = {Fault.TRUNCATED, Fault.HUGE, Fault.FLOAT_USAGE}
    assert {*_REFUSED, *_UNANSWERED, *_ODD, *_LOST, *others} == set(Fault)


@pytest.mark.slow
def test_faults_from_a_predicate_a_queue_and_for_all_requests(server: ApiServer) -> None:
    def first_attempt(ask: Ask) -> Fault | None:
        return Fault.UNAVAILABLE if ask.attempt == 0 else None

    server.set(predicate=first_attempt)
    server.next(Fault.SERVER_ERROR, times=2)
    for expected in (500, 500):
        with pytest.raises(openai.InternalServerError) as raised:
            ask(server)
        assert raised.value.status_code == expected
    ask(server)
    with pytest.raises(openai.InternalServerError):
        ask(server, messages=[{"role": "user", "content": "another"}])
    server.always(Fault.QUOTA)
    for _ in range(3):
        with pytest.raises(openai.RateLimitError, match="quota"):
            ask(server)
    server.always(None)
    ask(server)


def test_faults_on_other_endpoints(server: ApiServer) -> None:
    server.next(Fault.UNAUTHORISED, endpoint="models")

    async def job() -> None:
        async with connect(server) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            await client.models.list()

    asyncio.run(job())
