"""Estimate a node's memory: weights, gradients, optimizer, activations, logits, key-value cache. No torch import."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # doctor loads its checks without pydantic
    from hivemind_exp.config import Config

FAMILIES = frozenset({"gemma", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "stablelm"})
"""Dense decoders whose size follows from config.json, to within a few thousandths: they differ in norms and biases."""
VOCABULARY_TILE = 32_768
"""Columns of the logits that TRL's fused head computes at once."""
USUAL_PROMPT = 256
"""The length of a prompt that the estimate assumes, in tokens, even where the limit is higher."""
TINY = {
    "model_type": "llama",
    "vocab_size": 108,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": True,
}
"""The shape of the model "tiny" (``hivemind_exp.models.tiny``)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def read(cls, config: Mapping[str, Any], parameters: int | None = None) -> Self | None:
        """Return the shape that a config.json describes; None for a family whose size does not follow from it.

        ``parameters``: the exact number of weights, if it is known (``count_weights``).
        """
        config = config.get("text_config", config)
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            layers, vocabulary = int(config["num_hidden_layers"]), int(config["vocab_size"])
            intermediate = int(config["intermediate_size"])
        except (KeyError, TypeError, ValueError):
            return None
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or hidden // heads)
        if parameters is None:
            if config.get("model_type") not in FAMILIES:
                return None
            tied = bool(config.get("tie_word_embeddings", config["model_type"] == "gemma"))
            attention = 2 * hidden * head_dim * (heads + kv_heads)
            biases = head_dim * (heads + 2 * kv_heads) if config["model_type"] == "qwen2" else 0
            layer = attention + biases + 3 * hidden * intermediate + 2 * hidden
            parameters = layers * layer + vocabulary * hidden * (1 if tied else 2) + hidden
        return cls(parameters, layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on the device, by use. Training and generation alternate."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Saved for the backward pass of one micro-batch of the longest rows."""
    logits: int
    """Of one micro-batch, in tiles of the vocabulary; or of one generated position, if that is larger."""
    generation: int
    """Keys and values of one generated batch at full length; or those of its prompts plus one layer's intermediate
    results for them, if that is larger."""

    @property
    def peak(self) -> int:
        """The most bytes in use at once: the persistent part plus training or generation."""
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.generation) + self.logits


def count_weights(files: Iterable[Path]) -> int | None:
    """Return the number of weights in safetensors files, from their headers; None if a file cannot be read."""
    total = 0
    for path in files:
        if path.suffix != ".safetensors":
            return None
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 100_000_000)))
        except (OSError, ValueError, RecursionError, struct.error):
            return None
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None


def estimate(config: Config, shape: Shape, *, half: bool, prompt: int | None = None) -> MemoryEstimate:
    """Return the memory that a configuration needs. ``half``: the computation is in a 16-bit format.

    Trained weights and AdamW's moments are always in float32, and autocast keeps a copy of the weights in the 16-bit
    format. Completions are assumed to have the maximum length. Prompts are assumed to have ``prompt`` tokens, or the
    maximum length if it is unset. Measured for a step of Qwen2.5-0.5B's shape on an H200, without logits, 8 rows × 1536
    tokens: 24.8 GiB (estimated 27.1); with checkpointing 9.3 GiB (10.1).
    """
    width = 2 if half else 4
    lora = config.model.lora
    trainable = shape.parameters if lora is None else _adapter(shape, lora.rank)
    copies = 0 if lora is not None else (width if half else 0) + (4 if config.train.beta > 0 else 0)
    frozen = 0 if lora is None else shape.parameters * width
    generation, rows = config.generation, config.train.micro_batch
    asked = min(generation.max_prompt_tokens, prompt or generation.max_prompt_tokens)
    length = asked + generation.max_completion_tokens
    cached = shape.layers * 2 * shape.kv_heads * shape.head_dim * width
    computed = 3 * shape.intermediate * width + 4 * shape.hidden * 4
    tile = min(shape.vocabulary, VOCABULARY_TILE)
    return MemoryEstimate(
        weights=trainable * 4 + shape.parameters * copies + frozen,
        gradients=trainable * 4,
        optimizer=trainable * 8,
        activations=rows * length * _saved(shape, width, checkpointing=config.model.gradient_checkpointing),
        # In training: scores and their gradient. In generation: scores and probabilities. All in float32.
        logits=max(rows * generation.max_completion_tokens * tile * 4 * 2, generation.batch * shape.vocabulary * 4 * 2),
        generation=generation.batch * max(length * cached, asked * (cached + computed)),
    )


def _adapter(shape: Shape, rank: int) -> int:
    """Return the number of weights in adapters on every linear layer of every block."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys)
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate))


def _saved(shape: Shape, width: int, *, checkpointing: bool) -> int:
    """Return the bytes saved per token: norms, projections, attention without its matrix, and the gated unit."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = width * (4 * shape.hidden + 4 * queries + 4 * keys + 4 * shape.intermediate) + 4 * (4 * shape.hidden)
    return layer + shape.layers * shape.hidden * 4 if checkpointing else shape.layers * layer


def checkpoint_bytes(config: Config, shape: Shape) -> int:
    """Return the size of one checkpoint: weights or adapter in float32, plus AdamW's two moments."""
    lora = config.model.lora
    return 12 * (shape.parameters if lora is None else _adapter(shape, lora.rank))
