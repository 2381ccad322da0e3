"""Requests for log-probabilities, and what is accepted as an answer."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from hivemind_exp.offload.api.dialect import RequestDialect
from hivemind_exp.offload.api.faults import RequestFailed
from hivemind_exp.offload.api.scoring import mean_distance, read_scores, scoring_body
from hivemind_exp.rollouts.types import TokensToScore
from tests.support.engine_rig import endpoint

TOKENS = TokensToScore((5, 6), (7, 8, 9), ("a", " b", "<|end|>"))
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}


def answer(**logprobs: Any) -> dict[str, Any]:
    table = {"tokens": ["x", "y", "a", " b", "<|end|>", "!"], "token_logprobs": [None, -1.0, -0.5, -2, -0.0, -3.0]}
    choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": table | logprobs}
    return {"model": "m", "choices": [choice], "usage": USAGE}


def read(document: Any) -> tuple[tuple[float, ...] | None, str]:
    found = read_scores(json.dumps(document).encode(), {}, TOKENS)
    assert found.choices == ()
    return found.logps, found.problem


def test_a_request_has_token_ids_and_asks_for_one_token() -> None:
    style = RequestDialect("max_completion_tokens", supports_n=True)
    body = scoring_body(endpoint("http://box/v1", model="m"), style, TOKENS)
    assert body == {
        "model": "m",
        "prompt": [5, 6, 7, 8, 9],
        "max_tokens": 1,
        "echo": True,
        "logprobs": 1,
        "return_token_ids": True,
    }
    assert style.adapt("Extra inputs are not permitted: 'return_token_ids'")
    assert "return_token_ids" not in scoring_body(endpoint("http://box/v1"), style, TOKENS)


@pytest.mark.parametrize("cut", [5, 6])
def test_the_completions_log_probabilities_are_read(cut: int) -> None:
    table = answer()["choices"][0]["logprobs"]
    found = read_scores(json.dumps(answer(**{name: each[:cut] for name, each in table.items()})).encode(), {}, TOKENS)
    assert found.logps == (-0.5, -2.0, 0.0)
    assert (found.usage and found.usage.prompt, found.model, found.problem) == (5, "m", "")


@pytest.mark.parametrize("value", [0.0, 5e-4])
def test_rounding_above_zero_is_zero(value: float) -> None:
    assert read(answer(token_logprobs=[None, -1, value, -2, -3]))[0] == (0.0, -2.0, -3.0)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), 0.01, "-1", True, [], 10**400])
def test_what_is_no_log_probability_is_refused(value: Any) -> None:
    logps, problem = read(answer(token_logprobs=[None, -1, -0.5, value, -3, -3]))
    assert logps is None
    assert problem.startswith("the log-probability of token 2 of 3 is ")
    assert len(problem) < 100


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"token_logprobs": None}, "it has no log-probabilities"),
        ({"token_logprobs": [-1.0, -2.0, -3.0]}, "it has log-probabilities of 3 tokens, but 5 were sent"),
        ({"token_logprobs": [None] * 2 + [-1.0] * 5}, "it has log-probabilities of 7 tokens, but 5 were sent"),
        ({"token_ids": [1, 5, 6, 7, 8]}, "it has log-probabilities of different tokens from those that were sent"),
        ({"tokens": None}, "it does not say which tokens it scored"),
        ({"tokens": ["x", "y", "a"]}, "it does not say which tokens it scored"),
        ({"tokens": ["x", "y", "a", 7, "<|end|>"]}, "it uses another tokenizer: token 2 of 3 is “7” there"),
        ({"tokens": ["x", "y", "a", " b", "</s>"]}, "it uses another tokenizer: token 3 of 3"),
    ],
)
def test_scores_of_other_tokens_are_refused(changed: dict[str, Any], problem: str) -> None:
    logps, why = read(answer(**changed))
    assert logps is None
    assert why.replace('"', "“").replace("'", "“")[:30] == problem.replace('"', "“")[:30]


def test_other_spellings_of_the_same_tokens_are_accepted() -> None:
    assert read(answer(tokens=["x", "y", "a", "Ġb", "<|end|>"]))[0] is not None
    assert read(answer(tokens=["x", "y", "a", "▁b", "<|end|>"]))[0] is not None
    part = TokensToScore((5,), (7,), ("\N{REPLACEMENT CHARACTER}",))
    table = {"tokens": ["x", ""], "token_logprobs": [None, -1.0]}
    assert read_scores(json.dumps(answer(**table)).encode(), {}, part).logps == (-1.0,)


@pytest.mark.parametrize("document", [[], {}, {"choices": "x"}, {"choices": [1]}, {"choices": [{"logprobs": [1]}]}])
def test_nothing_that_a_service_sends_breaks_the_reader(document: Any) -> None:
    with suppress(RequestFailed):
        assert read(document)[0] is None


def test_the_echoed_ids_must_be_those_that_were_sent() -> None:
    document = answer()
    document["choices"][0]["prompt_token_ids"] = [1, 5, 6, 7, 8, 9]  # a server that adds a token at the start
    assert read(document) == (None, "it has log-probabilities of different tokens from those that were sent")
    document["choices"][0]["prompt_token_ids"] = [5, 6, 7, 8, 9]
    assert read(document)[0] == (-0.5, -2.0, 0.0)


def test_two_scores_of_a_text_are_compared_per_token() -> None:
    assert mean_distance((-1.0, -2.0), (-1.5, -2.0)) == 0.25
