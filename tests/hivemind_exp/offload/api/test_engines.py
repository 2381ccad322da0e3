"""Which engine a node's own weights are pushed to, and that no other engine's advice is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from hivemind_exp.config import Config
from hivemind_exp.offload.api.engines import INFERENCE_ENGINES, inference_engine, open_server
from hivemind_exp.offload.api.policy_server import Advice
from hivemind_exp.offload.api.vllm import VllmServer
from hivemind_exp.offload.policy_server_probe import shortcomings
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.serving_settings import InferenceEngineName
from hivemind_exp.sources.policy_server_check import Cause, remedy
from tests.support.policy_server import policy_server
from tests.support.tiny_models import save_llama

OWN_WORDS = Advice(
    "(load adapters)", "(keep {needed})", "(log-probabilities as sampled)", "(full precision)", "(sleep)"
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
    monkeypatch.setitem(INFERENCE_ENGINES, "vllm", OtherServer)
    for config in (configure("box"), configure("box", engine="vllm"), configure("litellm", engine="vllm")):
        assert isinstance(open_server(config, first_endpoint(config)), OtherServer)


def test_the_probe_gives_the_advice_of_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(INFERENCE_ENGINES, "vllm", OtherServer)
    with policy_server(save_llama(tmp_path / "llama"), processed=False, most=2) as (_, url):
        config = configure("box", url)
        found = [each.text for each in shortcomings(first_endpoint(config), config, tmp_path / "served", 3)]
    assert [OWN_WORDS.sampled_logps in found[0], "(keep 3)" in found[1], len(found)] == [True, True, 2]
    assert "--" not in "".join(found)


@pytest.mark.parametrize(
    ("turns", "faults", "found"),
    [
        ("on", {"sleeps": False}, ["It cannot sleep. Start it with --enable-sleep-mode"]),
        ("off", {"sleeps": False}, []),
        ("on", {}, []),
        ("on", {"asleep": True}, []),
    ],
)
def test_the_probe_asks_nothing_of_a_server_that_sleeps(
    tmp_path: Path, turns: str, faults: dict[str, Any], found: list[str]
) -> None:
    with policy_server(save_llama(tmp_path / "llama"), **faults) as (server, url):
        config = configure("box", url, turns=turns)
        told = shortcomings(first_endpoint(config), config, tmp_path / "served", 2)
    assert [any(text in each.text for each in told) for text in found] == [True] * len(told)
    assert not any(each.serious for each in told)
    assert ("complete" in server.turns) == (not server.asleep)
    assert "wake_up" not in server.turns, "a node may be training"


def test_a_node_gives_the_advice_of_the_engine() -> None:
    advice = {cause: remedy(cause, OWN_WORDS) for cause in Cause}
    assert OWN_WORDS.adapters in advice[Cause.IGNORED]
    assert (advice[Cause.RAW], advice[Cause.FORMAT]) == (OWN_WORDS.sampled_logps, OWN_WORDS.precision)
    assert "--" not in "".join(advice.values())
