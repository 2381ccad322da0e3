"""Estimate a node's memory: weights, gradients, optimizer, activations, logits, key-value cache. No torch import."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # doctor loads its checks without pydantic
    from hivemind_exp.config import Config

FAMILIES = frozenset({"gemma", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "stablelm"})
"""Dense decoders whose size follows from config.json, to within a few thousandths: they differ in norms and biases."""
VOCABULARY_TILE, TOKEN_TILE = 32_768, 4096
"""Columns and rows of the logits that TRL's fused head computes at once."""
AUTO_MICRO_BATCH, AUTO_BATCH = 4, 64
"""What ``train.micro_batch`` and ``generation.batch`` are if they are "auto" on a CPU, where a resumed node has to get
the same bits, and on a device that does not report its free memory."""
MOST_ROWS, MOST_GENERATED = 64, 256
"""The largest batches of training and generation that are chosen from free memory: larger ones are hardly faster."""
MANY_TOKENS = 15_000
"""If a micro-batch has fewer tokens, activations are recomputed: the memory for more rows is worth more. On an H200, a
step of 64 rows with 480 tokens each took 0.39 s with all rows recomputed, and 0.44 s with 16 rows that were not."""
SPARE = 0.9
"""Share of the free memory that a choice uses. The rest is for fragmentation and for what the estimate misses."""
DRAWING = 60
"""Bytes for each token of the vocabulary that can be drawn next: measured."""
MERGE_SHARE = 4
"""Adapters are merged for generation if copies of the weights under them take at most one in so many free bytes."""
FOUR_BIT, EIGHT_BIT = 0.516, 2.04
"""Bytes per weight in 4 bits, and per pair of moments in 8 bits, with their scales. An embedding's moments have 32."""
_TRANSIENT = 1.3
"""Activations of a layer in its backward pass, and their gradients, relative to the activations alone."""
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
class Batches:
    """How much work goes through the model at a time."""

    micro_batch: int
    checkpointing: bool
    generation: int


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on the device, by use. Training and generation alternate."""

    weights: int
    copies: int
    """The weights in the 16-bit format of the computation, if they are kept in float32; or merged with adapters."""
    gradients: int
    optimizer: int
    activations: int
    """Of one micro-batch of the longest rows: saved for the backward pass, or computed in it."""
    logits: int
    """Of one micro-batch, in tiles; or of one generated position, if that is larger."""
    generation: int
    """Keys and values of one generated batch at full length; or those of its prompts plus one layer's intermediate
    results for them, if that is larger."""
    peak: int
    """The most bytes in use at once."""
    batches: Batches


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


class NodeMemory:
    """Bytes that a model of some shape needs on its device, under a node's settings.

    ``half``: the computation is in a 16-bit format. Trained weights and AdamW's moments are always in float32.
    ``fused``: norms, rotary embeddings and gated units are fused kernels. Compared with measurements in
    benchmarks/RESULTS.md.
    """

    def __init__(self, config: Config, shape: Shape, *, half: bool, fused: bool = False) -> None:
        self.shape, self.width = shape, 2 if half else 4
        self._fused = fused and not config.train.shard
        self._frozen = config.model.lora is not None
        rank = None if config.model.lora is None else config.model.lora.rank
        trained = shape.parameters if rank is None else adapter_weights(shape, rank)
        self.weights = trained * 4
        if self._frozen:
            self.weights += _frozen(shape, self.width, four_bit=config.model.load_in_4bit)
        elif config.train.beta > 0:
            self.weights += shape.parameters * 4
        self.gradients, self.optimizer = trained * 4, trained * 8
        if config.train.optimizer == "adamw-8bit":
            exact = 0 if self._frozen else shape.parameters - _linear(shape)
            self.optimizer = int(exact * 8 + (trained - exact) * EIGHT_BIT)
        self.copies = shape.parameters * 2 if half and not self._frozen else 0
        self._merged = _linear(shape) * self.width if self._frozen and not config.model.load_in_4bit else 0
        self._kept = self.copies
        """While a micro-batch is trained on: copies of weights, or the weights that are gathered."""
        self._divided = config.train.shard
        if self._divided:
            self._divide(config.train.processes)

    def _divide(self, processes: int) -> None:
        """Divide what ``train.shard`` divides, and count what is gathered of it.

        To generate: everything, embeddings in float32 if they are trained. To train: two layers, and what is outside
        the layers.
        """
        shape, linear = self.shape, _linear(self.shape)
        self.weights, self.gradients = self.weights // processes, self.gradients // processes
        self.optimizer //= processes
        exact = self.width if self._frozen else 4
        self.copies = shape.parameters * self.width
        if exact > self.width:  # the head gets a copy of its own
            self.copies = linear * self.width + shape.vocabulary * shape.hidden * (exact + self.width)
        layers = 2 * linear // shape.layers
        self._kept = layers * self.width + (shape.parameters - linear) * exact
        if not self._frozen:
            self._kept += layers * 4  # their gradients, before they are divided

    def activations(self, rows: int, length: int, *, checkpointing: bool) -> int:
        """Return the activations of a micro-batch of ``rows`` rows of ``length`` tokens."""
        layer = self._saved()
        if not checkpointing:
            return rows * length * self.shape.layers * layer
        inputs = self.shape.layers * self.shape.hidden * (self.width if self._frozen else 4)
        return rows * length * int(inputs + layer * _TRANSIENT)

    def _saved(self) -> int:
        """Return the bytes that a layer saves per token: norms, projections, attention without its matrix, the gated
        unit.

        With trained weights, the residual stream is in float32, and norms save their input and output. With frozen
        weights, it has the computation's format, and a norm saves only its input, in float32. Adapters in float32 get
        copies of their layer's input; gathered ones are in the computation's format. Fused norms save their
        input as it is, and a fused gated unit does not save the gate's activation.
        """
        shape, width = self.shape, self.width
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        gated = width * (3 if self._fused else 4) * shape.intermediate
        if self._frozen:
            normed = 2 * shape.hidden * (width if self._fused else 4)
            inputs = 1 if self._divided else 5
            return gated + width * (3 * queries + 2 * keys + inputs * shape.hidden) + normed
        rotated, normed = (2, 2) if self._fused else (4, 4)
        return gated + width * (rotated * (queries + keys) + 4 * shape.hidden) + 4 * normed * shape.hidden

    def logits(self, rows: int, scored: int) -> int:
        """Return the logits of a micro-batch with ``scored`` completion tokens a row, and their gradients."""
        tokens, hidden = rows * scored, self.shape.hidden
        tile = min(self.shape.vocabulary, VOCABULARY_TILE) * (min(tokens, TOKEN_TILE) + hidden) * self.width
        return tile + tokens * hidden * (4 + self.width)

    def training(self, rows: int, length: int, scored: int, *, checkpointing: bool, several: bool) -> int:
        """Return the peak of a step, besides weights and optimizer. ``several``: it has several micro-batches.

        In the first backward pass, gradients take the place of activations, from the last layer to the first.
        """
        activations = self.activations(rows, length, checkpointing=checkpointing)
        copies, head = self._kept, 0 if self._frozen else self.shape.vocabulary * self.shape.hidden * 4
        if checkpointing:  # the copies are freed after the forward pass
            inputs = rows * length * self.shape.layers * self.shape.hidden * 4
            during = max(copies + inputs, activations + self.logits(rows, scored) + head)
        else:
            during = copies + activations + self.logits(rows, scored) + head
        if several:
            return during + self.gradients - (0 if self._frozen else min(head, self.gradients))
        layer = rows * length * self._saved()
        return max(during, self.gradients + int(layer * _TRANSIENT))

    def left(self, room: float | None) -> float | None:
        """Return what is left of a device's memory besides weights and optimizer; None if it does not report it."""
        return None if room is None else room * SPARE - self.weights - self.optimizer

    def generation_copies(self, left: float | None) -> int:
        """Return the copies of weights that generation needs, with ``left`` free bytes."""
        merged = left is not None and merges(self._merged, left)
        return self.copies + (self._merged if merged else 0)

    def generation(self, rows: int, prompt: int, length: int, left: float | None = None) -> int:
        """Return the peak of generating ``rows`` completions, besides weights and optimizer."""
        copies = self.generation_copies(left)
        gated = (3 if self._fused else 4) + (2 if self._frozen and not self._merged else 0)
        return copies + generated(self.shape, rows, prompt, length, width=self.width, gated=gated)

    def sampled(self, rows: int) -> int:
        """Return the bytes with which the next tokens of ``rows`` completions are drawn."""
        return _drawn(self.shape, rows)

    def choose_training(
        self, room: float, rows: int, length: int, scored: int, *, checkpointing: bool
    ) -> tuple[int, bool]:
        """Return how many rows of a step fit into ``room`` bytes, and whether activations have to be recomputed for it.

        ``checkpointing``: they are in any case.
        """
        for recompute in (True,) if checkpointing else (False, True):
            most = min(rows, MOST_ROWS)
            for size in _halvings(most):
                needed = self.training(size, length, scored, checkpointing=recompute, several=size < rows)
                if needed <= room and (recompute or size == most or size * length >= MANY_TOKENS):
                    return size, recompute
        return 1, True


def merges(size: int, room: float) -> bool:
    """Return whether adapters are merged into copies of ``size`` bytes, with ``room`` free bytes."""
    return size * MERGE_SHARE <= room


def generated(shape: Shape, rows: int, prompt: int, length: int, *, width: int, gated: int = 4) -> int:
    """Return the peak of generating ``rows`` completions, besides weights: of the prompts, or of the last tokens.

    ``length``: of a prompt with its completion. ``width``: bytes per number. ``gated``: how many tensors of a gated
    unit's size exist at once: the gate, its activation (except with fused kernels), the other input and the product;
    two more over weights in 4 bits.
    """
    cached = shape.layers * 2 * shape.kv_heads * shape.head_dim * width
    computed = gated * shape.intermediate * width + 4 * shape.hidden * 4
    return max(rows * prompt * (cached + computed), rows * length * cached + _drawn(shape, rows))


def _drawn(shape: Shape, rows: int) -> int:
    """Return the logits of one position, and what is computed from them to draw tokens, outside and in the graph."""
    return rows * shape.vocabulary * DRAWING


def choose_generation(shape: Shape, room: float, rows: int, prompt: int, length: int, *, width: int) -> int:
    """Return how many of ``rows`` completions fit into ``room`` bytes at a time, also in 4 bits."""
    sizes = _halvings(min(rows, MOST_GENERATED))
    return next((size for size in sizes if generated(shape, size, prompt, length, width=width, gated=6) <= room), 1)


def _halvings(most: int) -> Iterator[int]:
    while most >= 1:
        yield most
        most //= 2


def estimate(
    config: Config,
    shape: Shape,
    *,
    half: bool,
    fused: bool = False,
    prompt: int | None = None,
    room: int | None = None,
) -> MemoryEstimate:
    """Return the memory that a configuration needs. ``half``, ``fused``: as for ``NodeMemory``.

    Completions are assumed to have the maximum length. Prompts are assumed to have ``prompt`` tokens, or the maximum
    length if it is unset. ``room``: the device's free memory, from which batches that are "auto" are chosen; None: a
    device that does not report it.
    """
    memory, generation = NodeMemory(config, shape, half=half, fused=fused), config.generation
    asked = min(generation.max_prompt_tokens, prompt or generation.max_prompt_tokens)
    scored = generation.max_completion_tokens
    length, rows = asked + scored, config.game.groups * config.game.group_size
    batches = choose_batches(config, memory, asked, room)
    size, checkpointing = min(batches.micro_batch, rows), batches.checkpointing
    several = size < rows
    training = memory.training(size, length, scored, checkpointing=checkpointing, several=several)
    left = memory.left(room)
    generated, copies = memory.generation(batches.generation, asked, length, left), memory.generation_copies(left)
    return MemoryEstimate(
        weights=memory.weights,
        copies=copies,
        gradients=memory.gradients,
        optimizer=memory.optimizer,
        activations=memory.activations(size, length, checkpointing=checkpointing),
        logits=max(memory.logits(size, scored), memory.sampled(batches.generation)),
        generation=generated - copies,
        peak=memory.weights + memory.optimizer + max(training, generated),
        batches=batches,
    )


def choose_batches(config: Config, memory: NodeMemory, asked: int, room: int | None) -> Batches:
    """Return the sizes of batches that a configuration gets. ``asked``: the length of a prompt."""
    train, generation = config.train.micro_batch, config.generation.batch
    checkpointing = config.model.gradient_checkpointing
    rows, scored = config.game.groups * config.game.group_size, config.generation.max_completion_tokens
    left = memory.left(room)
    if train == "auto" and left is not None:
        train, checkpointing = memory.choose_training(left, rows, asked + scored, scored, checkpointing=checkpointing)
    if generation == "auto" and left is not None:
        width, room_left = memory.width, left - memory.generation_copies(left)
        generation = choose_generation(memory.shape, room_left, rows, asked, asked + scored, width=width)
    train, generation = (
        AUTO_MICRO_BATCH if train == "auto" else train,
        AUTO_BATCH if generation == "auto" else generation,
    )
    return Batches(train, checkpointing, generation)


def _linear(shape: Shape) -> int:
    """Return the number of weights in the linear layers of all blocks."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)


def _frozen(shape: Shape, width: int, *, four_bit: bool) -> int:
    """Return the bytes of frozen weights. Embeddings are not quantized."""
    packed = _linear(shape) if four_bit else 0
    return int(packed * FOUR_BIT) + (shape.parameters - packed) * width


def adapter_weights(shape: Shape, rank: int) -> int:
    """Return the number of weights in adapters on every linear layer of every block."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys)
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate))


def checkpoint_bytes(config: Config, shape: Shape) -> int:
    """Return the size of one checkpoint: weights or adapter in float32, plus AdamW's two moments."""
    lora = config.model.lora
    return 12 * (shape.parameters if lora is None else adapter_weights(shape, lora.rank))
