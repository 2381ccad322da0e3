"""Compare the memory estimate with real models: the number of weights, and what autograd keeps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from hivemind_exp.config import Config
from hivemind_exp.models.loading import adapter_config
from hivemind_exp.models.memory import TINY, Shape, _adapter, _saved, checkpoint_bytes, count_weights, estimate
from hivemind_exp.models.tiny import build_model, build_tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}
QWEN_05B = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def shape_of(config: PretrainedConfig) -> Shape:
    shape = Shape.read(json.loads(config.to_json_string()))
    assert shape is not None
    return shape


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL),
        LlamaConfig(**SMALL, tie_word_embeddings=True),
        MistralConfig(**SMALL),
        Qwen2Config(**SMALL),
        Qwen3Config(**SMALL, head_dim=32),
        QWEN_05B,
    ],
)
def test_the_number_of_weights_follows_from_the_configuration(config: PretrainedConfig) -> None:
    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(config).num_parameters()
    assert shape_of(config).parameters == pytest.approx(real, rel=2e-3)


def test_the_shape_of_tiny_matches_its_model() -> None:
    shape = Shape.read(TINY)
    assert shape is not None
    assert shape.parameters == build_model(build_tokenizer(), 0).num_parameters()


def test_an_unknown_family_needs_its_weights_counted(tmp_path: Path) -> None:
    config = Gemma2Config(**SMALL, head_dim=16)
    read = json.loads(config.to_json_string())
    assert Shape.read(read) is None
    assert Shape.read({"model_type": "llama"}) is None
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    counted = count_weights(tmp_path.glob("*.safetensors"))
    assert counted == model.num_parameters()
    shape = Shape.read(read, counted)
    assert shape is not None
    assert shape.parameters == counted
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    assert count_weights(tmp_path.glob("*.safetensors")) is None
    assert count_weights([tmp_path / "pytorch_model.bin"]) is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), Qwen2Config(**SMALL), Qwen3Config(**SMALL, head_dim=16)])
def test_activations_are_what_autograd_keeps(config: PretrainedConfig, half: bool) -> None:
    model = AutoModelForCausalLM.from_config(config).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    rows, length = 2, 256
    amp = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    ids = torch.randint(0, SMALL["vocab_size"], (rows, length))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), amp:
        out = model.base_model(ids, use_cache=False)
    # Autocast's copies of the weights count as weights.
    matrices = sum(p.numel() for p in model.base_model.layers.parameters() if p.dim() == 2)
    measured = sum(size for size, _ in kept.values()) - (matrices * 2 if half else 0)
    assert out.last_hidden_state.requires_grad
    estimated = rows * length * _saved(shape_of(config), 2 if half else 4, checkpointing=False)
    assert 0.85 < estimated / measured < 1.25


def test_adapters_are_counted() -> None:
    import peft

    settings = Config.model_validate({"model": {"lora": {"rank": 4}}})
    config = LlamaConfig(**SMALL)
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), adapter_config(settings.model.lora))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert _adapter(shape_of(config), 4) == trainable
    assert checkpoint_bytes(settings, shape_of(config)) == 12 * trainable


def test_settings_that_save_memory_lower_the_estimate() -> None:
    shape = shape_of(QWEN_05B)

    def need(**tables: Any) -> Any:
        return estimate(Config.model_validate(tables), shape, half=True)

    plain = need()
    assert plain.weights == shape.parameters * 6  # float32, and autocast's copy
    assert (plain.gradients, plain.optimizer) == (shape.parameters * 4, shape.parameters * 8)
    assert need(train={"micro_batch": 2}).activations == plain.activations / 2
    assert need(model={"gradient_checkpointing": True}).activations < plain.activations / 5
    assert need(generation={"batch": 32}).generation == plain.generation / 2
    assert need(model={"lora": {}}).optimizer < plain.optimizer / 10
    assert need(train={"beta": 0.1}).weights == shape.parameters * 10
    assert need(generation={"max_completion_tokens": 64}).peak < plain.peak


def test_the_estimate_matches_gpu_measurements() -> None:
    def need(**model: Any) -> Any:
        settings = {"model": model, "train": {"micro_batch": 8}}
        return estimate(Config.model_validate(settings), shape_of(QWEN_05B), half=True)

    # Peak GiB on one H200: bfloat16, AdamW, 8 rows × 1536 tokens, a step without its logits.
    for measured, found in ((24.8, need()), (9.27, need(gradient_checkpointing=True))):
        held = found.weights + found.gradients + found.optimizer + found.activations
        assert 0.95 < held / 2**30 / measured < 1.2
    # 64 prompts of 1024 tokens, plus 40 generated tokens. Autocast's copy of the weights, 0.9 GiB, counts as weights.
    assert 0.8 < need().generation / 2**30 / (4.87 - 0.9) < 1.2
