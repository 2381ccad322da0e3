"""Which engine a node's own weights are pushed to, and that no other engine's advice is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.offload.api.engines import INFERENCE_ENGINES, inference_engine, open_server
from hivemind_exp.offload.api.policy_server import Advice
from hivemind_exp.offload.api.sglang import ASLEEP, TURNING, SglangServer
from hivemind_exp.offload.api.vllm import VllmServer
from hivemind_exp.offload.policy_server_probe import shortcomings
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.serving_settings import InferenceEngineName
from hivemind_exp.sources.policy_server_check import Cause, remedy
from tests.support.policy_server import policy_server
from tests.support.policy_server_nodes import STAND_INS
from tests.support.tiny_models import save_llama

OWN_WORDS = Advice(
    "(load adapters)",
    "(keep {needed})",
    "(log-probabilities as sampled)",
    "(full precision)",
    "(sleep)",
    "(heed seeds)",
    "(reload)",
)
SERVED: dict[str, Any] = {"model": {"lora": True}}


class OtherServer(VllmServer):
    """Another engine, whose flags have other names."""

    advice = OWN_WORDS


def configure(provider: str, url: str = "http://127.0.0.1:9/v1", **serving: str) -> Config:
    offload = {"provider": provider, "model": "policy", "kind": "policy", "serving": serving}
    box = {"base_url": url, "free": True}
    return Config.model_validate({**SERVED, "offload": offload, "providers": {"box": box}})


def test_the_setting_has_the_names_of_the_engines() -> None:
    assert set(get_args(InferenceEngineName)) == set(INFERENCE_ENGINES), "add the engine to InferenceEngineName"


def test_the_setting_or_else_the_provider_s_name_decides_on_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {inference_engine(configure(name)) for name in ("box", "vllm")} == {VllmServer}
    assert inference_engine(configure("sglang")) is inference_engine(configure("box", engine="sglang")) is SglangServer
    monkeypatch.setitem(INFERENCE_ENGINES, "vllm", OtherServer)
    for config in (configure("box"), configure("box", engine="vllm"), configure("litellm", engine="vllm")):
        assert isinstance(open_server(config, first_endpoint(config)), OtherServer)


def test_the_probe_gives_the_advice_of_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(INFERENCE_ENGINES, "vllm", OtherServer)
    with policy_server(save_llama(tmp_path / "llama"), processed=False, most=2, heeds_seeds=False) as (_, url):
        config = configure("box", url)
        found = [each.text for each in shortcomings(first_endpoint(config), config, tmp_path / "served", 3)]
    for own, text in zip((OWN_WORDS.sampled_logps, OWN_WORDS.seeds, "(keep 3)"), found, strict=True):
        assert own in text
    assert "--" not in "".join(found)


@pytest.mark.parametrize(
    ("engine", "turns", "faults", "found"),
    [
        ("vllm", "on", {"sleeps": False}, ["It cannot sleep. Start it with --enable-sleep-mode"]),
        ("vllm", "off", {"sleeps": False}, []),
        ("vllm", "on", {}, []),
        ("vllm", "on", {"asleep": True}, []),
        ("sglang", "on", {"sleeps": False}, ["It cannot sleep. Start it with --enable-memory-saver"]),
        ("sglang", "off", {"sleeps": False}, []),
        ("sglang", "on", {}, []),
        ("sglang", "on", {"asleep": True, "version": f"{ASLEEP}default"}, []),
    ],
)
def test_the_probe_asks_nothing_of_a_server_that_sleeps(
    tmp_path: Path, engine: str, turns: str, faults: dict[str, Any], found: list[str]
) -> None:
    with policy_server(save_llama(tmp_path / "llama"), STAND_INS[engine], **faults) as (server, url):
        config = configure("box", url, turns=turns, engine=engine)
        told = shortcomings(first_endpoint(config), config, tmp_path / "served", 2)
    assert [any(text in each.text for each in told) for text in found] == [True] * len(told)
    assert not any(each.serious for each in told)
    assert ("complete" in server.turns) == (not server.asleep)
    assert "wake_up" not in server.turns, "a node may be training"


@pytest.mark.parametrize("asleep", [False, True])
def test_the_probe_asks_nothing_of_a_server_that_may_sleep(tmp_path: Path, asleep: bool) -> None:
    faults = {"asleep": asleep, "version": f"{TURNING}default"}
    with policy_server(save_llama(tmp_path / "llama"), STAND_INS["sglang"], **faults) as (server, url):
        config = configure("box", url, turns="on", engine="sglang")
        (told,) = shortcomings(first_endpoint(config), config, tmp_path / "served", 2)
    assert (told.serious, "It must be restarted: a node was killed" in told.text) == (True, True)
    assert not {"complete", "wake_up", "sleep"} & set(server.turns)


@pytest.mark.parametrize(
    ("engine", "faults", "serious", "found"),
    [
        ("sglang", {}, False, []),
        ("sglang", {"enabled": False}, True, ["does not serve adapters", "--enable-lora --max-lora-rank"]),
        ("sglang", {"rank": 8}, True, ["adapters of rank 16", "--max-lora-rank", "--lora-target-modules"]),
        ("sglang", {"processed": False}, False, ["SGLANG_RETURN_ORIGINAL_LOGPROB"]),
        ("sglang", {"heeds_seeds": False}, False, ["ignores seeds", "--enable-deterministic-inference"]),
        ("sglang", {"most": 2}, False, ["--max-loras-per-batch 3"]),
        ("sglang", {"most_loaded": 2}, False, ["--max-loaded-loras"]),
        ("vllm", {"heeds_seeds": False}, False, ["ignores seeds", "no proxy"]),
        ("vllm", {"one_seed": True}, True, ["All its completions of a prompt are the same"]),
    ],
)
def test_the_probe_names_what_an_engine_lacks(
    tmp_path: Path, engine: str, faults: dict[str, Any], serious: bool, found: list[str]
) -> None:
    with policy_server(save_llama(tmp_path / "llama"), STAND_INS[engine], **faults) as (server, url):
        config = configure("box", url, engine=engine)
        told = shortcomings(first_endpoint(config), config, tmp_path / "served", 3)
    assert all(text in told[0].text for text in found)
    assert [each.serious for each in told] == ([serious] if found else [])
    assert server.adapters == []


@pytest.mark.parametrize(
    ("engine", "faults", "found"),
    [
        ("vllm", {}, None),
        ("vllm", {"reloads": False, "sleeps": False}, "VLLM_SERVER_DEV_MODE=1"),
        ("vllm", {"outdated": True}, "Update it: swarmctl is tested with vLLM 0.32"),
        ("sglang", {}, None),
        ("sglang", {"outdated": True}, "Update it: swarmctl is tested with SGLang 0.5.23"),
        ("sglang", {"reloads": False}, "--weight-cache-mode"),
        ("sglang", {"enabled": False, "most": 1}, None),
    ],
)
def test_the_probe_asks_whether_all_weights_can_be_replaced(
    tmp_path: Path, engine: str, faults: dict[str, Any], found: str | None
) -> None:
    with policy_server(save_llama(tmp_path / "llama"), STAND_INS[engine], **faults) as (server, url):
        config = configure("box", url, engine=engine).model_copy(update={"model": ModelConfig()})
        told = shortcomings(first_endpoint(config), config, tmp_path / "served", 3)
    assert [(each.serious, found in each.text) for each in told] == ([] if found is None else [(True, True)])
    assert (server.reloaded, server.loads) == ([], []), "nothing was changed"


def test_the_probe_s_adapter_is_on_the_node_s_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def load(_server: Any, _name: str, folder: str) -> None:
        seen.append(json.loads((Path(folder) / "adapter_config.json").read_text())["target_modules"])

    monkeypatch.setattr(SglangServer, "load", load)
    with policy_server(save_llama(tmp_path / "llama"), STAND_INS["sglang"]) as (_, url):
        for lora in (True, {"targets": "q_proj, o_proj"}):
            config = configure("box", url, engine="sglang").model_copy(
                update={"model": ModelConfig.model_validate({"lora": lora})}
            )
            shortcomings(first_endpoint(config), config, tmp_path / "served", 3)
    assert seen == [list(SglangServer.modules), ["q_proj", "o_proj"]]


def test_a_node_gives_the_advice_of_the_engine() -> None:
    advice = {cause: remedy(cause, OWN_WORDS) for cause in Cause}
    assert OWN_WORDS.adapters in advice[Cause.IGNORED]
    assert (advice[Cause.RAW], advice[Cause.FORMAT]) == (OWN_WORDS.sampled_logps, OWN_WORDS.precision)
    assert "--" not in "".join(advice.values())
