"""Models with random weights of known shapes, and a node's parts around them."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.gpu.plain_source import MeasuredSource
from hivemind_exp.config import Config
from hivemind_exp.models.fused_kernels import are_used
from hivemind_exp.models.loading import adapter_config
from hivemind_exp.models.quantized import four_bits
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

G = 8
"""Completions per prompt."""
QWEN: dict[str, Any] = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "0.5B": QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": QWEN | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "3B": QWEN | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
}
"""Shapes of Qwen2.5, by their usual names."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured."""

    shape: str = "0.5B"
    rows: int = 64
    prompts: tuple[int, int] = (128, 224)
    """The shortest and the longest prompt, in tokens."""
    tokens: int = 256
    """The longest completion."""
    device: str = "cuda"

    @property
    def dtype(self) -> str:
        return "float32" if self.device == "cpu" else "bfloat16"


def build(work: Work, dtype: torch.dtype, *, four_bit: bool = False) -> PreTrainedModel:
    """Return a model with random weights on the device."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[work.shape], max_position_embeddings=4096)
    with torch.device(work.device):
        model = Qwen2ForCausalLM._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = 1
    if not four_bit:
        return model
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        del model
        release()
        return Qwen2ForCausalLM.from_pretrained(
            directory, dtype=dtype, quantization_config=four_bits(work.dtype), device_map={"": work.device}
        )


@dataclass(frozen=True, slots=True)
class Node:
    """The parts of a node that generate and train."""

    config: Config
    step_trainer: SourceGRPOTrainer
    source: MeasuredSource
    fused: bool
    """Whether the model computes with fused kernels."""


@contextmanager
def node(work: Work, **tables: Any) -> Iterator[Node]:
    """Build a node with these settings, and free its memory at the end."""
    generation = {"max_completion_tokens": work.tokens, "max_prompt_tokens": work.prompts[1]}
    config = Config.model_validate(
        {
            **tables,
            "game": {"groups": work.rows // G, "group_size": G},
            "generation": {**generation, **tables.get("generation", {})},
        }
    )
    release()
    frozen = config.model.lora is not None
    dtype = getattr(torch, work.dtype) if frozen else torch.float32
    tokenizer = build_tokenizer()
    with tempfile.TemporaryDirectory() as directory:
        step_trainer = SourceGRPOTrainer(
            build(work, dtype, four_bit=config.model.load_in_4bit),
            tokenizer,
            config,
            Path(directory),
            device=work.device,
            dtype=work.dtype,
            peft_config=adapter_config(config.model.lora),
        )
        source = MeasuredSource(step_trainer.policy, tokenizer, config.generation, StopFlag(), _dtype=work.dtype)
        made = Node(config, step_trainer, source, are_used(config.model, work.device))
        try:
            yield made
        finally:
            step_trainer.close()
            del made, source, step_trainer
            release()


def release() -> None:
    """Free what nothing uses any more."""
    if "bitsandbytes" in sys.modules:
        # transformers registers every embedding there for an 8-bit optimizer, and nothing removes them.
        sys.modules["bitsandbytes"].optim.GlobalOptimManager.get_instance().module_weight_config_triple.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(work: Work) -> None:
    if work.device.startswith("cuda"):
        torch.cuda.synchronize()
