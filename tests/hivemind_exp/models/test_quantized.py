"""Weights in 4 bits and moments in 8 bits, on the CPU, with bitsandbytes; and why they are refused without it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.counting import count_parameters
from hivemind_exp.models.loading import adapter_config, load_model, load_tokenizer, with_adapter
from hivemind_exp.models.quantized import check_quantized
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

FOUR_BIT: dict[str, Any] = {"load_in_4bit": True, "lora": {"rank": 4}}


def config(**tables: Any) -> Config:
    return Config.model_validate({"train": {"learning_rate": 1e-2, "warmup_steps": 0}, **tables})


def manifest(step: int) -> Manifest:
    rows = tuple(
        TrainingRow(Kind.POLICY, "s", "t", 0, (5, 6), (20 + n, 21, 22), "", 1.0, 1.0 if n % 2 else -1.0, 0)
        for n in range(4)
    )
    return Manifest(step, step, step, 4, rows, tokens=(12, 0))


def test_it_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    four, eight = config(model=FOUR_BIT), config(train={"optimizer": "adamw-8bit"})
    for each, name in ((four, "model.load_in_4bit"), (eight, "train.optimizer")):
        with pytest.raises(ConfigurationError, match=f"{name} needs bitsandbytes, which does not support mps"):
            check_quantized(each, "mps")
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigurationError, match=f"{name} needs bitsandbytes, which is not installed") as caught:
            check_quantized(each, "cuda:0")
        assert "pip install" in str(caught.value.next)
        monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    check_quantized(config(), "mps")
    with pytest.raises(ValidationError, match="weights in 4 bits"):
        config(model={"load_in_4bit": True})
    with pytest.raises(ValidationError, match="does not work with"):
        config(model={"name": "tiny", **FOUR_BIT})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("bitsandbytes")
    directory, tokenizer = tmp_path_factory.mktemp("llama"), build_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, **shape)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def trainer(root: Path, model: Any, settings: Config) -> SourceGRPOTrainer:
    peft_config = None if hasattr(model, "peft_config") else adapter_config(settings.model.lora)
    return SourceGRPOTrainer(
        model, build_tokenizer(), settings, root, device="cpu", dtype="float32", peft_config=peft_config
    )


def load(name: str, **model: Any) -> Any:
    settings = ModelConfig.model_validate({"name": name, **model})
    return load_model(settings, load_tokenizer(settings), dtype="float32", seed=0)


@pytest.mark.slow
def test_adapters_train_on_weights_in_four_bits_and_resume_with_the_same_bits(llama: str, tmp_path: Path) -> None:
    settings = config(model={"name": llama, "load_in_4bit": True, "lora": {"rank": 4}})
    model = load(llama, **FOUR_BIT)
    packed = [value for value in model.parameters() if value.dtype == torch.uint8]
    assert len(packed) == 2 * 7
    assert count_parameters(model) == load(llama).num_parameters()
    first = trainer(tmp_path / "first", model, settings)
    trained = [value for value in first.policy.parameters() if value.requires_grad]
    assert {value.dtype for value in trained} == {torch.float32}  # TRL rounds them to bfloat16
    frozen = [value.clone() for value in packed]
    results = [first.step(manifest(step)) for step in range(2)]
    assert all(result.grad_norm > 0 for result in results)
    assert all(map(torch.equal, packed, frozen))
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    adapted = with_adapter(load(llama, **FOUR_BIT), str(tmp_path / "saved/model"), trainable=True)
    resumed = trainer(tmp_path / "again", adapted, settings)
    resumed.load(tmp_path / "saved")
    assert resumed.step(manifest(2)) == first.step(manifest(2))
    for one, other in zip(first.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_log_probabilities_of_four_bits_are_close_to_those_of_all(llama: str, tmp_path: Path) -> None:
    rows = manifest(0).rows
    exact, four = (
        trainer(tmp_path / str(number), load(llama, **model), config(model={"name": llama, **model}))
        for number, model in enumerate(({"lora": {"rank": 4}}, FOUR_BIT))
    )
    for one, other in zip(exact.log_probabilities(rows), four.log_probabilities(rows), strict=True):
        assert one == pytest.approx(other, abs=0.3)
        assert one != other


@pytest.mark.slow
def test_moments_in_eight_bits_move_weights_almost_as_exact_ones_and_are_saved(llama: str, tmp_path: Path) -> None:
    slow = {"learning_rate": 1e-3, "warmup_steps": 0}
    settings = config(model={"name": llama}, train={"optimizer": "adamw-8bit", **slow})
    plain = config(model={"name": llama}, train=slow)
    eight, exact = (trainer(tmp_path / str(each is plain), load(llama), each) for each in (settings, plain))
    before = [value.clone() for value in exact.policy.parameters()]
    for step in range(3):
        eight.step(manifest(step))
        exact.step(manifest(step))
    after = [each.policy.parameters() for each in (exact, eight)]
    moved, apart = 0.0, 0.0
    for old, one, other in zip(before, *after, strict=True):
        moved, apart = moved + float((one - old).square().sum()), apart + float((one - other).square().sum())
    assert 0 < apart < 0.04 * moved
    kept = [state["state1"].dtype for state in eight.optimizer.state.values() if "state1" in state]
    assert torch.uint8 in kept
    (tmp_path / "saved").mkdir()
    eight.save(tmp_path / "saved")
    resumed = trainer(tmp_path / "again", load(llama), settings)
    resumed.policy.load_state_dict(eight.policy.state_dict())
    resumed.load(tmp_path / "saved")
    assert resumed.step(manifest(3)) == eight.step(replace(manifest(3)))
    for one, other in zip(eight.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)
