"""Twenty rounds with a real vLLM on the CPU, which serves this node's weights. ``make test-vllm`` runs this."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hivemind_exp.config import Config
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.served_probe import shortcomings
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import ChanceRewards, make_config
from tests.support.recorded_events import Events

VLLM = os.environ.get("VLLM")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(VLLM is None, reason="needs a vLLM: make test-vllm")]
ROUNDS, GROUPS, SIZE = 20, 4, 4
START_S = 300.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of the smallest shape that vLLM serves on a CPU."""
    directory = tmp_path_factory.mktemp("vllm") / "model"
    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **special)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """Serve the model; yield the base URL."""
    assert VLLM is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    switches = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    switches |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    flags = "--served-model-name policy --enable-lora --max-lora-rank 8 --max-loras 3 --enforce-eager"
    flags += f" --logprobs-mode processed_logprobs --max-model-len 256 --host 127.0.0.1 --port {port}"
    log = model.parent / "vllm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(VLLM).absolute(), "serve", model, *flags.split()],
            env=os.environ | switches,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_S
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < until, f"vLLM does not answer after {START_S:g} s"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def configure(model: Path, url: str, **lora: int) -> Config:
    return make_config(
        model={"name": str(model), "device": "cpu", "threads": 1, "lora": {"rank": 8} | lora},
        prompt={"style": "tags"},
        game={"rounds": ROUNDS, "groups": GROUPS, "group_size": SIZE},
        generation={"max_completion_tokens": 16, "max_prompt_tokens": 200, "temperature": 0.8},
        train={"learning_rate": 3e-3, "warmup_steps": 0, "micro_batch": 8},
        eval={"every": 0, "questions": 2},
        checkpoint={"every": ROUNDS},
        offload={"provider": "box", "kind": "policy"},
        providers={"box": {"base_url": url, "model": "policy", "free": True}},
    )


def test_twenty_rounds_are_learned_from_what_vllm_samples_of_the_newest_weights(
    model: Path, url: str, tmp_path: Path
) -> None:
    events = Events()
    began = time.monotonic()
    runner = GRPORunner(configure(model, url), NodeFiles(tmp_path), events, make_tasks=lambda *_: ChanceRewards())
    assert runner.run().round == ROUNDS
    rounds = events.of("rollouts")
    assert [(each["source"], each["count"]) for each in rounds] == [("policy", GROUPS * SIZE)] * ROUNDS
    assert [each["lag"] for each in rounds] == [0] + [1] * (ROUNDS - 1)
    told = {each["code"] for each in events.of("warning")}
    assert not told & {"policy_other", "policy_push", "provider_down"}
    (served,) = [each["message"] for each in events.of("note") if each["code"] == "policy_served"]
    clipped = [each["clip_fraction"] for each in events.of("step") if each["clip_fraction"] is not None]
    assert len(clipped) > ROUNDS / 2
    seconds = [sum(each["seconds"].values()) for each in events.of("round")]
    print(f"\n{served}\n{time.monotonic() - began:.0f} s, median round {sorted(seconds)[ROUNDS // 2]:.2f} s")


def test_the_flags_that_are_missing_are_found(model: Path, url: str, tmp_path: Path) -> None:
    def found(needed: int = 3, **lora: int) -> list[str]:
        config = configure(model, url, **lora)
        return [each.text for each in shortcomings(first_endpoint(config), config, tmp_path / "served", needed)]

    assert found() == []
    (rank,) = found(rank=32)
    assert "--max-lora-rank" in rank
    (most,) = found(needed=9)
    assert "--max-loras 9" in most
    assert not (tmp_path / "served").exists()
