"""Offload settings: provider names, schedules, kinds, prices."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.prices import Price, Usage, bounded_price, price_of
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import (
    chain,
    first_endpoint,
    generates,
    is_distilled,
    reasons,
    requests_a_round,
    resolved_kind,
    split,
    token_limit,
    training_terms,
)
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.rollouts.types import Kind
from hivemind_exp.sources.registry import remote_name
from hivemind_exp.sources.schedule import Parts, in_rounds, parts, rounds_ahead


def config(
    provider: str = "openai", *, mybox: Any = None, luffy: bool = False, generation: Any = None, **offload: Any
) -> Config:
    own = {"mybox": {"base_url": "http://box/v1", "model": "m"} | (mybox or {})}
    train = {"teacher_loss": "luffy" if luffy else "gated"}
    sections = {"providers": own, "train": train, "generation": generation or {}}
    return Config.model_validate({"offload": {"provider": provider} | offload, **sections})


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
    def of(**offload: Any) -> Parts:
        return parts(config(**offload).offload, 4, "answer", 8)

    assert of() == Parts(0, 8)
    assert of(share=0.5) == Parts(4, 4)
    assert of(share=0.01) == Parts(7, 1)
    assert of(provider="off") == of(rounds="0-3") == Parts(8, 0)
    assert of(when="failed", share=0.25) == Parts(8, 2, only_if_failed=True)
    assert list(of(share=0.25).remote_places) == [6, 7]
    assert of(teach="hints", share=0.25) == of(when="failed", share=0.25)
    assert of(teach="hints") == Parts(8, 8, only_if_failed=True)
    assert of(provider="off", teach="hints") == Parts(8, 0)


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


@pytest.mark.parametrize("model", ["YOUR-MODEL", "your_model", "MODEL", "<model>"])
def test_a_placeholder_from_a_document_is_no_model(model: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_offload(config("mybox", mybox={"model": model}))
    assert caught.value.message == f"the model of mybox is still the placeholder {model}; name one that mybox has"
    assert caught.value.next == "swarmctl models mybox --set providers.mybox.base_url=http://box/v1"
    with pytest.raises(ConfigurationError, match="still the placeholder"):
        check_offload(config(fallback=[f"mybox:{model}"]))


@pytest.mark.parametrize("model", ["model", "your-model-7b", "MODEL-7B"])
def test_a_model_may_be_called_much_like_a_placeholder(model: str) -> None:
    assert first_endpoint(config("mybox", mybox={"model": model})).model == model


def test_built_in_provider_cannot_move_to_another_host() -> None:
    with pytest.raises(ValidationError, match="this name is reserved; use another name for your provider"):
        Config.model_validate({"providers": {"openai": {"base_url": "http://elsewhere/v1"}}})
    with pytest.raises(ValidationError):
        config(mybox={"base_url": "http://user:password@box/v1"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "policy"}, "needs token ids"),
        ({"kind": "policy_text"}, "serves only its own models"),
        ({"kind": "relay", "share": 0.5}, "the API must fill every slot of a relay"),
        ({"kind": "relay", "when": "failed"}, "the API must fill every slot of a relay"),
        ({"kind": "relay", "rounds": "0-9"}, "the API must fill every round of a relay"),
        ({"kind": "relay", "on_limit": "local"}, "a relay loads no model"),
        ({"luffy": True}, "luffy compares"),
        ({"provider": "mistral", "batch": True}, "has no Batch API"),
        ({"provider": "groq", "service_tier": "flex"}, "has no service tier flex"),
        ({"batch": True, "when": "failed"}, "takes hours"),
        ({"teach": "hints", "kind": "relay"}, "it needs offload.kind = teacher, not relay"),
        ({"teach": "hints", "kind": "policy_text", "provider": "mybox"}, "offload.kind = teacher, not policy_text"),
        ({"teach": "hints", "batch": True}, "asks the API in the middle of a round"),
        ({"teach": "hints", "luffy": True}, "with offload.teach = hints there are none"),
    ],
)
def test_invalid_settings_are_refused_with_a_working_suggestion(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_offload(config(**settings))
    assert caught.value.next is not None
    key, _, value = shlex.split(caught.value.next)[-1].removeprefix("offload.").partition("=")
    if key == "train.teacher_loss":
        key, value = "luffy", "false"
    plain = {"false": False, "true": True}.get(value, value if not value[:1].isdigit() else float(value))
    repaired = {**settings, key: plain}
    if key == "kind" or message == "the API must fill every slot of a relay":
        repaired |= {"provider": "mybox"} if repaired.get("kind") == "policy_text" else {"when": "always"}
    check_offload(config(**repaired))


def test_a_server_that_the_node_starts_is_for_its_own_weights() -> None:
    with pytest.raises(ConfigurationError, match=r"needs offload\.kind = policy, not teacher") as caught:
        check_offload(config("mybox", serving={"command": "vllm"}))
    assert caught.value.next == "swarmctl run --set offload.kind=policy"


@pytest.mark.parametrize(("share", "size"), [(0.9, 4), (0.99, 2), (0.5, 2), (0.01, 8)])
def test_share_below_one_leaves_a_slot_for_both(share: float, size: int) -> None:
    found = parts(config(share=share).offload, 0, "answer", size)
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
            assert resolved_kind(config(name, model="m")) is Kind.TEACHER


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


def test_hints_are_short_and_one_per_question() -> None:
    for group in ("n", "fan_out"):
        hints = config("mybox", teach="hints", mybox={"group": group})
        assert token_limit(hints) == 96
        assert requests_a_round(hints, first_endpoint(hints)) == hints.game.groups
    assert token_limit(config(teach="hints", max_tokens=40)) == 40
    assert rounds_ahead(config(teach="hints").offload) == 0
    study = config(teach="hints").model_copy(update={"game": GameConfig(kind="study-group")})
    with pytest.raises(ConfigurationError, match=r"needs game\.kind = sampling"):
        check_offload(study)


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


DISTILLATION = {"provider": "vllm:m", "teach": "distillation"}


@pytest.mark.parametrize(
    ("changed", "why", "setting"),
    [
        ({"provider": "openai"}, "which openai does not return. fireworks, vllm, sglang do", "offload.teach=answers"),
        ({"provider": "llamacpp:m"}, "which llamacpp does not return", "offload.teach=answers"),
        ({"kind": "relay"}, "it needs offload.kind = teacher, not relay", "offload.kind=teacher"),
        ({"kind": "policy_text"}, "it needs offload.kind = teacher, not policy_text", "offload.kind=teacher"),
        ({"share": 0.5}, "so offload.share has no effect", "offload.share=1.0"),
        ({"when": "failed"}, "so offload.when has no effect", "offload.when=always"),
        ({"provider": "mybox", "batch": True}, "a batch takes hours", "offload.batch=false"),
        ({"ahead": 2}, "nothing can be requested ahead", "offload.ahead=0"),
        ({"fallback": ["groq", "local"]}, "so groq cannot be its fallback", 'offload.fallback=["local"]'),
        ({"generation": {"temperature": 0.7}}, "generation.temperature is 0.7", "generation.temperature=1.0"),
        ({"luffy": True}, "with offload.teach = distillation there are none", "train.teacher_loss=gated"),
    ],
)
def test_settings_that_distillation_cannot_use_are_refused(changed: dict[str, Any], why: str, setting: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)) as caught:
        check_offload(config(**DISTILLATION | changed))
    assert caught.value.next == f"swarmctl run --set {shlex.quote(setting)}"
    name, _, value = setting.partition("=")
    if name.startswith("offload.") and value[:1] != "[":  # what the error suggests works
        cured = {name.removeprefix("offload."): {"1.0": 1.0, "false": False, "0": 0}.get(value, value)}
        check_offload(config(**DISTILLATION | changed | cured))


def test_later_stages_are_not_distilled() -> None:
    wide = Config.model_validate(
        {"offload": DISTILLATION | {"stages": ["answer", "critique"]}, "game": {"kind": "study-group"}}
    )
    with pytest.raises(ConfigurationError, match="works only in the stage answer"):
        check_offload(wide)


def test_with_distillation_this_machine_generates_everything_and_the_api_scores_it() -> None:
    made = config(**DISTILLATION, max_tokens=300)
    check_offload(made)
    assert (is_distilled(made), generates(made), remote_name(made)) == (True, False, None)
    assert token_limit(made) == 1
    assert requests_a_round(made, first_endpoint(made)) == made.game.groups * made.game.group_size
    assert "log π_teacher - log π for each token" in describe_loss(made)
    assert (is_distilled(config()), generates(config()), remote_name(config())) == (False, True, "api")
    off = config(provider="off", teach="distillation")
    check_offload(off)
    assert not is_distilled(off)
    assert not reasons(config(provider="mybox", mybox={"reasons": True}, teach="distillation"), first_endpoint(made))


BOX = {"base_url": "http://box:8000/v1", "model": "m", "free": True}
SERVED = {"provider": "mybox", "kind": "policy"}
LORA: dict[str, Any] = {"model": {"lora": True}}


@pytest.mark.parametrize(
    ("offload", "sections", "message", "setting"),
    [
        ({"provider": "openai", "model": "m"}, LORA, "openai is none", "offload.kind=teacher"),
        ({"provider": "ollama", "model": "m"}, LORA, "ollama is none", "offload.kind=policy_text"),
        ({"provider": "together", "serving": {"engine": "vllm"}}, LORA, "together is none", "offload.kind=policy_text"),
        ({}, {}, "needs model.lora", "model.lora=true"),
        ({}, LORA | {"providers": {"mybox": BOX | {"free": False}}}, "not marked as free", "providers.mybox.free=true"),
        ({}, LORA | {"providers": {"mybox": BOX | {"needs_key": True}}}, "API key", "providers.mybox.needs_key=false"),
        ({"fallback": ["ollama:m"]}, LORA, "ollama:m cannot take over", 'offload.fallback=["local"]'),
        ({"max_tokens": 9}, LORA, "offload.max_tokens has no effect", "offload.max_tokens=512"),
        ({"ahead": 5}, LORA, "older than train.max_lag = 4 allows", "offload.ahead=4"),
        ({"teach": "hints"}, LORA, "needs offload.kind = teacher, not policy", "offload.kind=teacher"),
    ],
)
def test_a_served_policy_needs_a_server_that_takes_adapters(
    offload: dict[str, Any], sections: dict[str, Any], message: str, setting: str
) -> None:
    def checked(offload: dict[str, Any], sections: dict[str, Any]) -> None:
        check_offload(Config.model_validate({"offload": SERVED | offload, "providers": {"mybox": BOX}} | sections))

    checked({}, LORA)
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        checked(offload, sections)
    assert shlex.split(caught.value.next or "")[-1] == setting
