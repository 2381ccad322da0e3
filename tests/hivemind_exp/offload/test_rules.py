"""Offload settings that are refused, because they cannot work or would teach nothing."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import (
    first_endpoint,
    generates,
    is_distilled,
    reasons,
    requests_a_round,
    token_limit,
)
from hivemind_exp.sources.registry import other_source_name
from hivemind_exp.sources.schedule import AHEAD, AHEAD_OF_WHOLE_WEIGHTS, rounds_ahead
from tests.support.offload_settings import config

DISTILLATION = {"provider": "vllm:m", "teach": "distillation"}
BOX = {"base_url": "http://box:8000/v1", "model": "m", "free": True}
SERVED = {"provider": "mybox", "kind": "policy"}
IN_TURN = {"turns": "on", "urls": ["http://127.0.0.1:8000/v1"]}
LORA: dict[str, Any] = {"model": {"lora": True}}
STUDY: dict[str, Any] = {"game": {"kind": "study-group"}}


@pytest.mark.parametrize("model", ["YOUR-MODEL", "your_model", "MODEL", "<model>"])
def test_a_placeholder_from_a_document_is_no_model(model: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_offload(config("mybox", mybox={"model": model}))
    assert caught.value.message == f"the model of mybox is still the placeholder {model}; name one that mybox has"
    assert caught.value.next == "swarmctl models mybox --set providers.mybox.base_url=http://box/v1"
    with pytest.raises(ConfigurationError, match="still the placeholder"):
        check_offload(config(fallback=[f"mybox:{model}"]))


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
    with pytest.raises(ConfigurationError, match=r"needs offload\.kind = policy, not auto") as caught:
        check_offload(config("mybox", serving={"command": "vllm"}))
    assert caught.value.next == "swarmctl run --set offload.kind=policy"


def test_hints_are_short_and_one_per_question() -> None:
    for group in ("n", "fan_out"):
        hints = config("mybox", teach="hints", mybox={"group": group})
        assert token_limit(hints) == 96
        assert requests_a_round(hints, first_endpoint(hints)) == hints.game.groups
    assert token_limit(config(teach="hints", max_tokens=40)) == 40
    assert rounds_ahead(config(teach="hints")) == 0
    served = [config(kind="policy", serving={"turns": each}) for each in ("on", "off")]
    assert [rounds_ahead(each) for each in served] == [0, AHEAD_OF_WHOLE_WEIGHTS]
    adapters = {"model": ModelConfig.model_validate({"lora": True})}
    assert [rounds_ahead(each.model_copy(update=adapters)) for each in served] == [0, AHEAD]
    study = config(teach="hints").model_copy(update={"game": GameConfig(kind="study-group")})
    with pytest.raises(ConfigurationError, match=r"needs game\.kind = sampling"):
        check_offload(study)


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
    assert (is_distilled(made), generates(made), other_source_name(made)) == (True, False, None)
    assert token_limit(made) == 1
    assert requests_a_round(made, first_endpoint(made)) == made.game.groups * made.game.group_size
    assert "log π_teacher - log π for each token" in describe_loss(made)
    assert (is_distilled(config()), generates(config()), other_source_name(config())) == (False, True, "api")
    off = config(provider="off", teach="distillation")
    check_offload(off)
    assert not is_distilled(off)
    assert not reasons(config(provider="mybox", mybox={"reasons": True}, teach="distillation"), first_endpoint(made))


@pytest.mark.parametrize(
    ("offload", "sections", "message", "setting"),
    [
        ({"provider": "openai", "model": "m"}, LORA, "openai is none", "offload.kind=teacher"),
        ({"provider": "ollama", "model": "m"}, LORA, "ollama is none", "offload.kind=policy_text"),
        ({"provider": "together", "serving": {"engine": "vllm"}}, LORA, "together is none", "offload.kind=policy_text"),
        ({}, LORA | {"providers": {"mybox": BOX | {"free": False}}}, "not marked as free", "providers.mybox.free=true"),
        ({}, LORA | {"providers": {"mybox": BOX | {"needs_key": True}}}, "API key", "providers.mybox.needs_key=false"),
        ({"fallback": ["ollama:m"]}, LORA, "ollama:m cannot take over", 'offload.fallback=["local"]'),
        ({"max_tokens": 9}, LORA, "offload.max_tokens has no effect", "offload.max_tokens=512"),
        ({"serving": {"gpu": 1}}, LORA, "offload.serving.gpu has no effect", "offload.serving.command=vllm"),
        (
            {"serving": {"arguments": ["--x"], "engine": "sglang"}},
            LORA,
            "offload.serving.arguments has no effect",
            "offload.serving.command=sglang",
        ),
        ({"ahead": 5}, LORA, "are 5 steps old when they are learned", "offload.ahead=4"),
        ({"ahead": 1}, LORA | {"train": {"max_lag": 0}}, "1 round ahead (offload.ahead) are 1 step", "offload.ahead=0"),
        ({"ahead": 2}, LORA | STUDY, "are 6 steps old when they are learned", "offload.ahead=1"),
        (
            {"ahead": 1},
            LORA | STUDY | {"train": {"max_lag": 2}},
            "are 3 steps old when they are learned",
            "offload.ahead=0",
        ),
        ({"teach": "hints"}, LORA, "needs offload.kind = teacher, not policy", "offload.kind=teacher"),
        ({"serving": {"turns": "on"}}, LORA, "http://box:8000/v1 is another machine", "offload.serving.turns=off"),
        ({"serving": IN_TURN, "ahead": 1}, LORA, "cannot generate ahead", "offload.ahead=0"),
        ({"serving": IN_TURN}, LORA | {"train": {"processes": 2}}, "works with one GPU", "offload.serving.turns=off"),
    ],
)
def test_a_served_policy_needs_a_server_that_takes_adapters(
    offload: dict[str, Any], sections: dict[str, Any], message: str, setting: str
) -> None:
    def checked(offload: dict[str, Any], sections: dict[str, Any]) -> None:
        check_offload(Config.model_validate({"offload": SERVED | offload, "providers": {"mybox": BOX}} | sections))

    checked({}, LORA)
    checked({}, LORA | STUDY)
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        checked(offload, sections)
    assert shlex.split(caught.value.next or "")[-1] == setting
    name, _, value = setting.partition("=")
    if name == "offload.ahead":
        checked(offload | {"ahead": int(value)}, sections)


@pytest.mark.parametrize(("most", "sampling", "study"), [(4, 2, 1), (1, 1, 0), (0, 0, 0)])
def test_by_default_no_completion_becomes_too_old(most: int, sampling: int, study: int) -> None:
    for sections, expected in ((LORA, sampling), (LORA | STUDY, study)):
        tables = {"offload": SERVED, "providers": {"mybox": BOX}, "train": {"max_lag": most}}
        made = Config.model_validate(tables | sections)
        check_offload(made)
        assert rounds_ahead(made) == expected


def test_what_is_not_requested_ahead_does_not_become_too_old() -> None:
    never = {"train": {"max_lag": 0}, "providers": {"mybox": BOX}} | LORA
    check_offload(Config.model_validate({"offload": SERVED | {"stages": ["critique"]}} | never | STUDY))
    check_offload(Config.model_validate({"offload": SERVED | {"serving": IN_TURN}} | never))
