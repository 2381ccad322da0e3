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
from hivemind_exp.models.memory import (
    MERGE_SHARE,
    TINY,
    NodeMemory,
    Shape,
    _linear,
    adapter_weights,
    checkpoint_bytes,
    count_weights,
    estimate,
    generated,
)
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
    memory = NodeMemory(Config(), shape_of(config), half=half)
    estimated = memory.activations(rows, length, checkpointing=False)
    assert 0.85 < estimated / measured < 1.25


def test_adapters_are_counted() -> None:
    import peft

    settings = Config.model_validate({"model": {"lora": {"rank": 4}}})
    config = LlamaConfig(**SMALL)
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), adapter_config(settings.model.lora))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert adapter_weights(shape_of(config), 4) == trainable
    assert checkpoint_bytes(settings, shape_of(config)) == 12 * trainable


def test_merged_adapters_are_counted_if_there_is_room_for_them() -> None:
    shape = shape_of(LlamaConfig(**SMALL))
    settings = Config.model_validate({"model": {"lora": {"rank": 4}}})
    memory = NodeMemory(settings, shape, half=False)
    linear = memory.generation_copies(1e12)
    assert linear > 0
    assert [memory.generation_copies(left) for left in (None, linear, MERGE_SHARE * linear)] == [0, 0, linear]
    roomy, short = (estimate(settings, shape, half=False, room=room) for room in (10**12, None))
    assert (roomy.copies, short.copies) == (linear, 0)
    four = Config.model_validate({"model": {"lora": {"rank": 4}, "load_in_4bit": True}})
    assert NodeMemory(four, shape, half=True).generation_copies(1e12) == 0


@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 16}}])
def test_fused_kernels_save_less(model: dict[str, Any]) -> None:
    """An H200 with Qwen2.5-0.5B's shape, 480 tokens per row: 17.75 to 41.47 GiB from 16 to 64 rows, and 9.69 to 35.13
    with adapters."""
    shape, settings = shape_of(QWEN_05B), Config.model_validate({"model": model})
    plain, fused = (NodeMemory(settings, shape, half=True, fused=each) for each in (False, True))
    rows = 48
    saved = fused.activations(rows, 480, checkpointing=False)
    assert saved < 0.8 * plain.activations(rows, 480, checkpointing=False)
    measured = (35.13 - 9.69 if model else 41.47 - 17.75) * 2**30
    assert 0.9 < saved / measured < 1.1


def test_settings_that_save_memory_lower_the_estimate() -> None:
    shape = shape_of(QWEN_05B)

    def need(**tables: Any) -> Any:
        return estimate(Config.model_validate(tables), shape, half=True)

    plain = need()
    assert (plain.weights, plain.copies) == (shape.parameters * 4, shape.parameters * 2)  # float32 and 16 bits
    assert (plain.gradients, plain.optimizer) == (shape.parameters * 4, shape.parameters * 8)
    assert need(train={"micro_batch": 2}).activations == plain.activations / 2
    assert need(model={"gradient_checkpointing": True}).activations < plain.activations / 5
    assert need(generation={"batch": 32}).generation == plain.generation / 2
    assert need(model={"lora": {}}).optimizer < plain.optimizer / 10
    assert need(train={"beta": 0.1}).weights == shape.parameters * 8
    assert need(train={"optimizer": "adamw-8bit"}).optimizer < plain.optimizer / 2
    adapters, packed = need(model={"lora": {}}).weights, need(model={"lora": {}, "load_in_4bit": True}).weights
    assert adapters - packed == pytest.approx(_linear(shape) * (2 - 0.516))
    assert need(generation={"max_completion_tokens": 64}).peak < plain.peak


LORA: dict[str, Any] = {"lora": {"rank": 16}}
FOUR_BIT = LORA | {"load_in_4bit": True}
EIGHT_BIT = {"train": {"optimizer": "adamw-8bit"}}


@pytest.mark.parametrize(
    ("gib", "tables", "rows", "checkpointing"),
    [
        (20.69, {}, 16, False),
        (53.27, {}, 64, False),
        (9.24, {}, 16, True),
        (10.48, {}, 32, True),
        (11.09, {}, 64, True),
        (18.67, EIGHT_BIT, 16, False),
        (12.03, {"model": LORA}, 16, False),
        (2.18, {"model": LORA}, 16, True),
        (44.34, {"model": LORA}, 64, False),
    ],
)
def test_training_needs_what_was_measured(gib: float, tables: dict[str, Any], rows: int, checkpointing: bool) -> None:
    """Peaks on an H200: 64 rows of up to 224 + 256 tokens, Qwen2.5-0.5B's shape, bfloat16 (benchmarks.gpu)."""
    memory = NodeMemory(Config.model_validate(tables), shape_of(QWEN_05B), half=True)
    training = memory.training(rows, 480, 256, checkpointing=checkpointing, several=rows < 64)
    assert (memory.weights + memory.optimizer + training) / 2**30 == pytest.approx(gib, rel=0.05)


@pytest.mark.parametrize(
    ("size", "model", "training", "generation"),
    [
        ((896, 4864, 24, 14), {}, 27.22, 4.77),
        ((896, 4864, 24, 14), {"lora": {"rank": 16}}, 19.75, 2.04),
        ((1536, 8960, 28, 12), {}, 59.03, 13.41),
        ((1536, 8960, 28, 12), {"lora": {"rank": 16}}, 41.91, 5.56),
    ],
)
def test_a_model_divided_among_two_gpus_needs_what_was_measured(
    size: tuple[int, int, int, int], model: dict[str, Any], training: float, generation: float
) -> None:
    """Peaks on one of two H200s (benchmarks.gpu.several): half of 64 rows on each, shapes of Qwen2.5, bfloat16."""
    hidden, inner, layers, heads = size
    more = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape = shape_of(
        Qwen2Config(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads, **more
        )
    )
    settings = Config.model_validate({"train": {"processes": 2, "shard": True}, "model": model})
    memory = NodeMemory(settings, shape, half=True)
    kept = memory.weights + memory.optimizer
    trained = kept + memory.training(32, 480, 256, checkpointing=False, several=False)
    assert trained / 2**30 == pytest.approx(training, rel=0.05)
    assert (kept + memory.generation(32, 224, 480)) / 2**30 == pytest.approx(generation, rel=0.09)


def test_generation_needs_what_was_measured() -> None:
    """As above, with fused kernels and with merged adapters, before the optimizer exists."""
    for rows, gib, tables in ((64, 3.63, {}), (16, 3.05, {}), (64, 2.40, {"model": LORA}), (16, 1.91, {"model": LORA})):
        memory = NodeMemory(Config.model_validate(tables), shape_of(QWEN_05B), half=True, fused=True)
        peak = memory.weights + memory.generation(rows, 224, 480, left=1e12)
        assert peak / 2**30 == pytest.approx(gib, rel=0.06)
    plain = NodeMemory(Config.model_validate({"model": LORA}), shape_of(QWEN_05B), half=True)
    for gib, left in ((2.37, 1e12), (1.83, None)):
        assert (plain.weights + plain.generation(64, 224, 480, left)) / 2**30 == pytest.approx(gib, rel=0.09)
    # Without weights, in an earlier version: 64 prompts of 1024 tokens, plus 40 generated tokens.
    assert generated(shape_of(QWEN_05B), 64, 1024, 1064, width=2) / 2**30 == pytest.approx(4.87 - 0.9, rel=0.05)


@pytest.mark.parametrize(
    ("size", "model", "tokens", "train", "generate"),
    [
        ((1536, 8960, 28, 12), LORA, 1024, (1, 3.57), (8, 3.70)),
        ((2048, 11_008, 36, 16), FOUR_BIT, 512, (8, 4.29), (16, 3.23)),
    ],
    ids=["1.5B", "3B in 4 bits"],
)
def test_larger_models_need_what_was_measured(
    size: tuple[int, ...], model: dict[str, Any], tokens: int, train: tuple[int, float], generate: tuple[int, float]
) -> None:
    """Peaks on an H200 of which a process could use 4.0 and 6.7 GiB: 16 rows, prompts of up to 256 tokens."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
    qwen = shape_of(Qwen2Config(**dict(zip(names, size, strict=True)), **same))
    memory = NodeMemory(Config.model_validate({"model": model}), qwen, half=True)
    held, (rows, gib) = memory.weights + memory.optimizer, train
    training = memory.training(rows, 256 + tokens, tokens, checkpointing=True, several=True)
    assert (held + training) / 2**30 == pytest.approx(gib, rel=0.09)
    rows, gib = generate
    assert (held + memory.generation(rows, 256, 256 + tokens)) / 2**30 == pytest.approx(gib, rel=0.09)


def test_automatic_batches_fit_into_the_free_memory() -> None:
    shape = shape_of(QWEN_05B)
    found = [estimate(Config(), shape, half=True, room=gib * 2**30) for gib in (8, 10, 12, 16, 24, 80)]
    sizes = [each.batches for each in found]
    recomputed = [each.micro_batch for each in sizes if each.checkpointing]
    assert recomputed == sorted(recomputed)
    assert len(recomputed) == len(sizes) - 1
    assert [each.checkpointing for each in sizes] == sorted((each.checkpointing for each in sizes), reverse=True)
    assert sizes[1].checkpointing
    assert not sizes[-1].checkpointing
    assert sizes[0].generation < sizes[-1].generation == 64  # as many as a round has
    for gib, each in zip((10, 12, 16, 24, 80), found[1:], strict=True):
        assert each.peak <= gib * 2**30
    assert estimate(Config(), shape, half=False).batches.micro_batch == 4  # a CPU
