"""How vLLM is started for a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.models import smollm2
from swarmctl.serving import vllm
from swarmctl.serving.gpus import Place

ALONE = Place(None, shared=False, turns=False, why="")
TOGETHER = Place("0", shared=True, turns=False, why="offload.ahead = 1")
IN_TURN = Place("0", shared=True, turns=True, why="one GPU")


def config(rank: int | None = 16, model: str = "org/small", arguments: tuple[str, ...] = ()) -> Config:
    """Return a node's configuration. ``rank``: None if it trains all weights."""
    serving = {"provider": "vllm", "kind": "policy", "serving": {"command": "vllm", "arguments": list(arguments)}}
    return Config.model_validate({"model": {"name": model, "lora": rank and {"rank": rank}}, "offload": serving})


@pytest.mark.parametrize(("rank", "served"), [(1, "8"), (8, "8"), (9, "16"), (300, "320"), (512, "512")])
def test_the_rank_is_the_next_that_vllm_takes(rank: int, served: str) -> None:
    words = vllm.arguments(config(rank), 8000, ALONE)
    assert words[words.index("--max-lora-rank") + 1] == served


@pytest.mark.parametrize(("place", "share"), [(ALONE, None), (TOGETHER, "0.45"), (IN_TURN, "0.6")])
def test_a_shared_gpu_is_not_filled_by_the_server(place: Place, share: str | None) -> None:
    words = vllm.arguments(config(), 8000, place)
    name = "--gpu-memory-utilization"
    assert (words[words.index(name) + 1] if name in words else None) == share


def test_a_server_that_takes_turns_can_sleep() -> None:
    assert "--enable-sleep-mode" in vllm.arguments(config(), 8000, IN_TURN)
    assert vllm.environment({}, IN_TURN)["VLLM_SERVER_DEV_MODE"] == "1"
    expandable = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert expandable.items().isdisjoint(vllm.environment(expandable, IN_TURN).items())
    assert expandable.items() <= vllm.environment(expandable, TOGETHER).items()
    for place in (ALONE, TOGETHER):
        assert "--enable-sleep-mode" not in vllm.arguments(config(), 8000, place)
        assert "VLLM_SERVER_DEV_MODE" not in vllm.environment({}, place)


@pytest.mark.parametrize("words", [("--host=0.0.0.0",), ("--host", "::"), ("--ho", "box"), ("--async", "--host")])
def test_the_interface_for_sleep_is_not_opened_to_other_machines(words: tuple[str, ...]) -> None:
    opened = config(arguments=words)
    with pytest.raises(ConfigurationError, match="opens the server to other machines") as caught:
        vllm.arguments(opened, 8000, IN_TURN)
    assert caught.value.next == "swarmctl run --set offload.serving.turns=off"
    assert vllm.arguments(opened, 8000, TOGETHER)[-len(words) :] == list(words)


@pytest.mark.parametrize("words", [("--host=127.0.0.1",), ("--host", "localhost"), ("--hf-token", "0.0.0.0")])
def test_other_arguments_are_kept_while_it_takes_turns(words: tuple[str, ...]) -> None:
    assert vllm.arguments(config(arguments=words), 8000, IN_TURN)[-len(words) :] == list(words)


def test_a_node_that_trains_all_weights_needs_the_interface_to_replace_them() -> None:
    words = vllm.arguments(config(None), 8000, ALONE)
    assert not [word for word in words if "lora" in word]
    found = vllm.environment({}, ALONE, whole=True)
    assert (found["VLLM_SERVER_DEV_MODE"], "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in found) == ("1", False)
    with pytest.raises(ConfigurationError, match="Because the node trains all weights") as caught:
        vllm.arguments(config(None, arguments=("--host=::",)), 8000, ALONE)
    assert caught.value.next == "swarmctl run --set offload.serving.arguments=[]"


def test_smollm2_is_served_from_its_converted_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "stored", lambda _: None)
    assert vllm.arguments(config(model="smollm2"), 1, ALONE)[1] == smollm2.HUB_ID
    monkeypatch.setattr(smollm2, "stored", lambda _: tmp_path)
    assert vllm.arguments(config(model="smollm2"), 1, ALONE)[1] == str(tmp_path)


def test_a_gpu_is_the_only_one_that_the_server_sees() -> None:
    before = {"PATH": "/bin", "PYTHONPATH": "/ours", "HF_TOKEN": "hf_secret", "VLLM_CPU_KVCACHE_SPACE": "1"}
    found = vllm.environment(before, Place("3", shared=False, turns=False, why=""))
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert {"PYTHONPATH", "HF_TOKEN"}.isdisjoint(found)
    assert "CUDA_VISIBLE_DEVICES" not in vllm.environment(before, ALONE)


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(ConfigurationError, match="no program nowhere on the PATH"):
        vllm.ENGINE.program(Config.model_validate({"offload": {"serving": {"command": "nowhere --flag"}}}))
