"""How vLLM is started for a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.models import smollm2
from swarmctl.serving import vllm_command


def config(rank: int = 16, model: str = "org/small") -> Config:
    serving = {"provider": "vllm", "kind": "policy", "serving": {"command": "vllm"}}
    return Config.model_validate({"model": {"name": model, "lora": {"rank": rank}}, "offload": serving})


@pytest.mark.parametrize(("rank", "served"), [(1, "8"), (8, "8"), (9, "16"), (300, "320"), (512, "512")])
def test_the_rank_is_the_next_that_vllm_takes(rank: int, served: str) -> None:
    words = vllm_command.arguments(config(rank), 8000, shared=False)
    assert words[words.index("--max-lora-rank") + 1] == served


def test_a_shared_gpu_is_not_filled_by_the_server() -> None:
    assert "--gpu-memory-utilization" not in vllm_command.arguments(config(), 8000, shared=False)
    words = vllm_command.arguments(config(), 8000, shared=True)
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.45"


def test_smollm2_is_served_from_its_converted_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "stored", lambda _: None)
    assert vllm_command.arguments(config(model="smollm2"), 1, shared=False)[1] == smollm2.HUB_ID
    monkeypatch.setattr(smollm2, "stored", lambda _: tmp_path)
    assert vllm_command.arguments(config(model="smollm2"), 1, shared=False)[1] == str(tmp_path)


def test_a_gpu_is_the_only_one_that_the_server_sees() -> None:
    before = {"PATH": "/bin", "PYTHONPATH": "/ours", "HF_TOKEN": "hf_secret", "VLLM_CPU_KVCACHE_SPACE": "1"}
    found = vllm_command.environment(before, "3")
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert {"PYTHONPATH", "HF_TOKEN"}.isdisjoint(found)
    assert "CUDA_VISIBLE_DEVICES" not in vllm_command.environment(before, None)


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(ConfigurationError, match="no program nowhere on the PATH"):
        vllm_command.program(Config.model_validate({"offload": {"serving": {"command": "nowhere --flag"}}}))
