"""Offload settings: provider names, schedules, kinds, prices."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.prices import Price, Usage, bounded_price, price_of
from hivemind_exp.offload.settings import (
    chain,
    first_endpoint,
    reasons,
    split,
    token_limit,
    training_terms,
)
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.schedule import GroupSplit, in_rounds, split_group
from tests.support.offload_settings import config


@pytest.mark.parametrize(
    ("expression", "rounds"),
    [("*", {0, 1, 2, 3, 4, 5, 6}), ("every 3", {0, 3, 6}), ("1-2,5", {1, 2, 5}), ("4-", {4, 5, 6}), ("0", {0})],
)
def test_round_expressions_select_rounds(expression: str, rounds: set[int]) -> None:
    assert {round_ for round_ in range(7) if in_rounds(expression, round_)} == rounds


@pytest.mark.parametrize("expression", ["", "every 0", "every", "1,", "a", "-3", "1--2"])
def test_invalid_rounds_are_refused(expression: str) -> None:
    with pytest.raises(ValidationError):
        config(rounds=expression)


def test_shares_split_a_group_into_local_and_remote_slots() -> None:
    def of(**offload: Any) -> GroupSplit:
        return split_group(config(**offload).offload, 4, "answer", 8)

    assert of() == GroupSplit(0, 8)
    assert of(share=0.5) == GroupSplit(4, 4)
    assert of(share=0.01) == GroupSplit(7, 1)
    assert of(provider="off") == of(rounds="0-3") == GroupSplit(8, 0)
    assert of(when="failed", share=0.25) == GroupSplit(8, 2, only_if_failed=True)
    assert list(of(share=0.25).remote_slots) == [6, 7]
    assert of(teach="hints", share=0.25) == of(when="failed", share=0.25)
    assert of(teach="hints") == GroupSplit(8, 8, only_if_failed=True)
    assert of(provider="off", teach="hints") == GroupSplit(8, 0)


def test_provider_and_model_names_are_resolved() -> None:
    assert split("openrouter:meta/llama:free") == ("openrouter", "meta/llama:free")
    assert first_endpoint(config("openai:gpt-4o")).model == "gpt-4o"
    found = chain(config(fallback=["mybox", "groq:llama-3.3-70b-versatile", "local"]))
    assert [each.label if each else None for each in found] == [
        "openai:gpt-6-luna",
        "mybox:m",
        "groq:llama-3.3-70b-versatile",
        None,
    ]
    with pytest.raises(ConfigurationError, match="did you mean deepseek"):
        first_endpoint(config("deepsek"))
    with pytest.raises(ConfigurationError, match="begins with http:// or https://") as caught:
        first_endpoint(config("localhost:8018/v1"))
    assert caught.value.next == "swarmctl run --offload http://localhost:8018/v1"
    with pytest.raises(ConfigurationError, match=r"unknown provider 'acme'; known providers are openai, ") as caught:
        first_endpoint(config("acme"))
    assert caught.value.next == "swarmctl run --offload http://HOST:PORT/v1"
    with pytest.raises(ConfigurationError, match="http://box:8000/v1 is a URL") as caught:
        first_endpoint(config("http://box:8000/v1"))
    assert caught.value.next == "swarmctl run --offload http://box:8000/v1"
    with pytest.raises(ConfigurationError, match="has no default model"):
        first_endpoint(config("vllm"))
    with pytest.raises(ConfigurationError):
        first_endpoint(config("huggingface"))


@pytest.mark.parametrize("model", ["model", "your-model-7b", "MODEL-7B"])
def test_a_model_may_be_called_much_like_a_placeholder(model: str) -> None:
    assert first_endpoint(config("mybox", mybox={"model": model})).model == model


def test_built_in_provider_cannot_move_to_another_host() -> None:
    with pytest.raises(ValidationError, match="this name is reserved; use another name for your provider"):
        Config.model_validate({"providers": {"openai": {"base_url": "http://elsewhere/v1"}}})
    with pytest.raises(ValidationError):
        config(mybox={"base_url": "http://user:password@box/v1"})


@pytest.mark.parametrize(("share", "size"), [(0.9, 4), (0.99, 2), (0.5, 2), (0.01, 8)])
def test_share_below_one_leaves_a_slot_for_both(share: float, size: int) -> None:
    found = split_group(config(share=share).offload, 0, "answer", size)
    assert found.local >= 1
    assert found.remote >= 1
    assert found.local + found.remote == size


@pytest.mark.parametrize(
    ("provider", "training", "said"),
    [
        ("mybox", "model", "the model's license says whether you may train on its output"),
        ("mybox", "allowed", "its terms allow training on its output"),
        (
            "mybox",
            "unknown",
            "whether you may train on its output depends on the model's license and the service's terms (you may note "
            "what they say in providers.mybox.training)",
        ),
        ("ollama:m", None, "the model's license says whether you may train on its output"),
        (
            "openai",
            None,
            "its terms restrict training on its output, so read them before you share or publish the model",
        ),
    ],
)
def test_training_terms_are_those_of_the_model_or_the_service(provider: str, training: str | None, said: str) -> None:
    chosen = config(provider, mybox={"training": training} if training else None)
    assert training_terms(chosen, first_endpoint(chosen)) == said


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("/data/models/Qwen2.5-0.5B", "mybox:Qwen2.5-0.5B"),
        ("/data/models/Qwen2.5-0.5B/", "mybox:Qwen2.5-0.5B"),
        ("./models/q.gguf", "mybox:q.gguf"),
        ("../q.gguf", "mybox:q.gguf"),
        ("~/models/q.gguf", "mybox:q.gguf"),
        ("/", 'mybox:"/"'),
        ("Qwen/Qwen2.5-0.5B", "mybox:Qwen/Qwen2.5-0.5B"),
        ("llama3:8b", "mybox:llama3:8b"),
        ("x\n  try: y\x1b[2J", r'mybox:"x try: y\x1b[2J"'),
    ],
)
def test_label_shows_only_the_end_of_a_path(model: str, label: str) -> None:
    endpoint = first_endpoint(config(f"mybox:{model}"))
    assert (endpoint.label, endpoint.full_name, endpoint.model) == (label, f"mybox:{model}", model)


def test_suggested_command_has_the_whole_path() -> None:
    path = "/data/my models/q.gguf"
    with pytest.raises(ConfigurationError) as caught:
        bounded_price(first_endpoint(config(f"mybox:{path}")), {}, capped=True)
    assert "the price of mybox:q.gguf is unknown" in caught.value.message
    assert shlex.split(caught.value.next or "")[:4] == ["swarmctl", "run", "--offload", f"mybox:{path}"]


def test_auto_never_means_the_node_s_own_policy() -> None:
    for name, row in PROVIDERS.items():
        if row.chat is not None:
            assert config(name, model="m").offload.counts_as is Kind.TEACHER


def test_prices_are_known_tiered_set_or_free() -> None:
    openai = bounded_price(first_endpoint(config("openai:gpt-4o-mini")), {}, capped=True)
    assert (openai.input, openai.output) == (pytest.approx(0.15e-6), pytest.approx(0.6e-6))
    assert openai.cost(Usage(1000, 1000, cached=500)) < openai.cost(Usage(1000, 1000))
    tiered = first_endpoint(config("gemini:gemini-2.5-pro"))
    highest = price_of(tiered, {})
    assert highest is not None
    assert highest.input > highest.cost(Usage(1000, 0)) / 1000, "reserves use the highest tier"
    own = config("mybox", prices={"mybox": {"input": 1.0, "output": 3.0}})
    assert bounded_price(first_endpoint(own), own.offload.prices, capped=True).cost(Usage(10, 10)) == pytest.approx(
        4e-5
    )
    free = config("mybox", mybox={"free": True})
    assert bounded_price(first_endpoint(free), {}, capped=True).free


def test_an_unknown_price_is_explained_in_one_reading() -> None:
    with pytest.raises(ConfigurationError) as error:
        bounded_price(first_endpoint(config("mybox", mybox={"base_url": "http://192.168.1.20/v1"})), {}, capped=True)
    assert error.value.message == (
        "the price of mybox:m is unknown, so the cap cannot be enforced. If it costs nothing, set providers.mybox.free "
        "= true. Otherwise, set offload.prices.mybox.input and offload.prices.mybox.output to the USD per million "
        "tokens. To run without a cap, set offload.limits.usd to unlimited and leave offload.limits.usd_per_day unset"
    )


def test_unknown_price_is_refused_under_a_cap() -> None:
    endpoint = first_endpoint(config("mybox"))
    with pytest.raises(ConfigurationError, match="the price of mybox:m is unknown"):
        bounded_price(endpoint, {}, capped=True)
    assert bounded_price(endpoint, {}, capped=False).free


def test_grok_runs_under_a_cap_without_its_reasoning() -> None:
    endpoint = first_endpoint(config("xai"))
    with pytest.raises(ConfigurationError, match=f"the hidden reasoning of {endpoint.label} has no limit") as caught:
        bounded_price(endpoint, {}, capped=True, reasons=reasons(config("xai"), endpoint))
    assert caught.value.next == f"swarmctl run --offload {endpoint.label} --set offload.reasoning_effort=none"
    quiet = config("xai", reasoning_effort="none")
    assert not bounded_price(endpoint, {}, capped=True, reasons=reasons(quiet, endpoint)).free
    assert not first_endpoint(config("xai:grok-4.20-non-reasoning")).reasons


def test_daily_cap_alone_is_a_cap() -> None:
    assert not config(limits={"usd": "unlimited"}).offload.limits.capped
    assert config(limits={"usd": "unlimited", "usd_per_day": 1.0}).offload.limits.capped
    assert config().offload.limits.capped


def test_a_teacher_has_a_separate_token_limit() -> None:
    small = {"max_completion_tokens": 128}
    assert token_limit(config(generation=small)) == 1024
    assert token_limit(config(generation={"max_completion_tokens": 2048})) == 2048
    assert token_limit(config(generation=small, max_tokens=300)) == 300
    assert token_limit(config(generation=small, kind="relay")) == 128
    assert token_limit(config(generation=small, kind="policy_text")) == 128


def test_the_price_includes_discounts() -> None:
    usage = Usage(1000, 1000)
    openai = bounded_price(first_endpoint(config()), {}, capped=True)
    assert openai.cost(usage, tier="flex") == pytest.approx(0.5 * openai.cost(usage))
    assert openai.cost(usage, tier="default") == openai.cost(usage)
    assert openai.share(config(service_tier="flex").offload) == 0.5
    grok = price_of(first_endpoint(config("xai")), {})
    assert grok is not None
    assert grok.cost_in_batch(usage) == pytest.approx(0.8 * grok.cost(usage))
    assert grok.cost(usage, tier="flex") == grok.cost(usage)


def test_faster_tiers_cost_what_is_listed_and_otherwise_the_most_that_is_known() -> None:
    usage = Usage(1000, 1000)
    for model, tier, share in [
        ("gpt-6-luna", "priority", 2.0),
        ("gpt-6-luna", "fast", 2.0),
        ("gpt-4o-mini", "priority", 5 / 3),
        ("gpt-5.5", "priority", 2.5),
        ("gpt-5-nano", "priority", 2.5),  # not listed
        ("gpt-6-luna", "default", 1.0),
        ("gpt-6-luna", "unheard of", 1.0),
    ]:
        price = price_of(first_endpoint(config(f"openai:{model}")), {})
        assert price is not None
        assert price.cost(usage, tier=tier) == pytest.approx(share * price.cost(usage)), (model, tier)
    assert Price(1e-6, 2e-6).cost(usage, tier="fast") == pytest.approx(2.5 * 3e-3), "a price from the profile"
