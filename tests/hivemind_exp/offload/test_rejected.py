"""Rejected requests: the message names the setting to change, before the first round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload.api.dialect import RequestDialect, SamplingParams
from hivemind_exp.offload.api.faults import refusal
from hivemind_exp.offload.rejected import remedy
from tests.support.engine_rig import endpoint, engine, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server

SAMPLING = SamplingParams(temperature=1.0, max_tokens=1024, reasoning_tokens=2048, reasoning_effort=None)
STYLE = RequestDialect("max_tokens", supports_n=False)
LONG_PROMPT = (
    "This model's maximum context length is 64 tokens. However, you requested 300 tokens (200 in the messages, 100 in "
    "the completion). Please reduce the length of the messages or completion."
)


@pytest.mark.parametrize(
    ("said", "named", "command"),
    [
        (LONG_PROMPT, ["offload.model", "generation.max_prompt_tokens"], "swarmctl models box"),
        (
            "maximum context length is 512 tokens, but you requested 1074 tokens (50 in the messages)",
            ["offload.max_tokens (now 1024)", "generation.max_prompt_tokens"],
            "swarmctl run --set offload.max_tokens=231",
        ),
        (
            "the request exceeds the available context size, try increasing it",
            ["offload.max_tokens (now 1024)"],
            "swarmctl run --set offload.max_tokens=512",
        ),
        (
            "body.max_tokens: Input should be less than or equal to 128",
            ["offload.max_tokens (now 1024)"],
            "swarmctl run --set offload.max_tokens=128",
        ),
        ("body.max_completion_tokens: field not permitted", ["offload.max_tokens", "offload.provider"], None),
        ("body.model: Input should be 'a' or 'b'", ["offload.model"], "swarmctl models box"),
    ],
)
def test_the_setting_to_change_is_named(said: str, named: list[str], command: str | None) -> None:
    found = remedy(f'HTTP 400: "{said}"', STYLE, SAMPLING, "box")
    assert found is not None
    assert found.command == command
    assert [name for name in named if name not in found.advice] == []


@pytest.mark.parametrize("said", ["no reason given", "a prompt was flagged"])
def test_other_rejections_get_no_advice(said: str) -> None:
    assert remedy(f'HTTP 400: "{said}"', STYLE, SAMPLING, "box") is None


@pytest.mark.parametrize(
    ("most", "command"),
    [
        (2000, "swarmctl run --set offload.reasoning_tokens=976"),
        (100, "swarmctl run --set offload.max_tokens=50 --set offload.reasoning_tokens=50"),
    ],
)
def test_hidden_reasoning_counts_toward_the_limit(most: int, command: str) -> None:
    thinking = replace(STYLE, reasons=True)
    found = remedy(f"max_tokens is too large: 3072. This model supports at most {most} tokens", thinking, SAMPLING, "b")
    assert found is not None
    assert found.command == command


def test_a_judge_has_settings_of_its_own() -> None:
    found = remedy("max_tokens must be at most 8", STYLE, replace(SAMPLING, max_tokens=16, table="judge"), "box")
    assert found is not None
    assert found.command == "swarmctl run --set judge.max_tokens=8"


def test_another_name_does_not_help_against_a_limit_that_is_too_large() -> None:
    style = RequestDialect("max_tokens", supports_n=False)
    assert not style.adapt("max_tokens is too large: 100000. This model supports at most 16384 completion tokens")
    assert style.max_tokens == "max_tokens"


def test_the_reasons_of_a_422_are_text() -> None:
    rows = [{"loc": ["body", "max_tokens"], "msg": "field not permitted", "type": "value_error"}]
    assert refusal(422, json.dumps({"detail": rows}).encode(), {}).detail == (
        'HTTP 422: "body.max_tokens: field not permitted"'
    )


@pytest.mark.parametrize(
    ("fault", "named", "command"),
    [
        (Fault.SMALL_CONTEXT, r"offload\.model.*generation\.max_prompt_tokens", "swarmctl models box"),
        (Fault.UNKNOWN_FIELD, r"offload\.max_tokens.*offload\.provider", "swarmctl doctor api --deep"),
    ],
)
def test_the_setting_is_named_before_the_first_round(tmp_path: Path, fault: Fault, named: str, command: str) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        server.always(fault)
        with pytest.raises(ProviderError, match=named) as caught:
            rig.offload.wait_for_probe()
        assert caught.value.next == command
        (warning,) = rig.events.of("warning")
        assert warning["code"] == "provider_down"
        assert not rig.texts()


def test_a_later_prompt_that_is_too_long_is_reported_with_the_setting(tmp_path: Path) -> None:
    with (
        api_server(predicate=lambda ask: Fault.SMALL_CONTEXT if "question 1" in str(ask.messages) else None) as server,
        engine(tmp_path, endpoint(server.base_url)) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(0), order(1)])
        (warning,) = rig.events.of("warning")
    assert warning["code"] == "prompt_refused"
    assert "generation.max_prompt_tokens" in warning["message"]
