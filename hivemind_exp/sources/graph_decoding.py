"""Decoding on an NVIDIA card with a CUDA graph: one launch per token instead of hundreds.

The forward pass of one token takes a card less time than Python needs to launch its kernels. So the second one is
recorded, and the others replay it. Keys and values have a fixed place in memory for that (a static cache).
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticCache, StaticLayer

LENGTH_MULTIPLE = 32
"""The cache's length is rounded up to a multiple of this: new shapes cost new memory blocks."""
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that look at the positions in every step, which a graph cannot do."""
FEWEST = 8
"""Completions with fewer tokens at most are not worth recording a graph."""


def can_decode(model: PreTrainedModel, most: int) -> bool:
    """Return whether ``decode`` works for a model and completions of at most ``most`` tokens.

    The model must be on an NVIDIA card, run without synchronization, and keep the keys and values of every position.
    """
    if most < FEWEST or not on_nvidia(next(model.parameters())):
        return False
    config = model.config
    if not getattr(model, "_can_compile_fullgraph", False) or config._attn_implementation != "sdpa":
        return False
    if any(kind in str(getattr(config, "rope_parameters", None)) for kind in LENGTH_DEPENDENT_ROPE):
        return False
    return all(type(layer) is StaticLayer for layer in StaticCache(config, max_cache_len=1).layers)


def on_nvidia(tensor: Tensor) -> bool:
    """Return whether a tensor is on an NVIDIA card."""
    return tensor.device.type == "cuda" and torch.version.cuda is not None


def decode(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    *,
    most: int,
    choose: Callable[[Tensor], Tensor],
    end_ids: Collection[int],
    fill: int,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the completions (B, T ≤ ``most``) of prompts (B, P), which are padded on the left.

    ``choose``: returns the next tokens (B,) from logits (B, V). After one of ``end_ids``, a row goes on with ``fill``.
    ``check`` is called once per token and may raise. Expects evaluation mode and no gradients.
    """
    batch, width = ids.shape
    length = -(-(width + most) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    layers = StaticCache(model.config, max_cache_len=length).layers
    cache = Cache(layers=[_Layer(max_cache_len=length) for _ in layers])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    step = _Step(model, cache, mask, length)
    logits, ends = output.logits[:, -1], torch.tensor(sorted(end_ids), device=ids.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=ids.device)
    tokens: list[Tensor] = []
    while True:
        tokens.append(torch.where(ended, fill, choose(logits)))
        ended = ended | torch.isin(tokens[-1], ends)
        check()
        if len(tokens) == most or bool(ended.all()):
            return torch.stack(tokens, dim=1)
        logits = step(tokens[-1])


class _Layer(StaticLayer):  # type: ignore[misc]
    """Keeps keys in the values' number format: autocast leaves them in float32, and attention would convert them."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)
        return keys, values


class _Step:
    """The forward pass of one token per row, behind those in the cache."""

    def __init__(self, model: PreTrainedModel, cache: Cache, mask: Tensor, length: int) -> None:
        batch, width = mask.shape
        self._model, self._cache = model, cache
        self._token = mask.new_zeros((batch, 1))
        self._position = mask.sum(1, keepdim=True)
        self._slot = torch.tensor([width], device=mask.device)
        self._visible = torch.zeros((batch, 1, 1, length), dtype=torch.bool, device=mask.device)
        self._visible[:, 0, 0, :width] = mask.bool()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)
        self._steps = 0

    def __call__(self, token: Tensor) -> Tensor:
        """Return the logits (B, V) after ``token`` (B,). The next call overwrites them."""
        self._token[:, 0] = token
        self._steps += 1
        if self._steps == 2 and on_nvidia(token):  # not the first, because kernels are loaded when they are first used
            self._record()
        if self._graph is None:
            return self._forward()
        self._graph.replay()
        return self._logits

    def _record(self) -> None:
        """Record the forward pass, without running it. Not if there is no memory for it or the model synchronizes."""
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._logits = self._forward()
        except RuntimeError:
            return
        self._graph = graph

    def _forward(self) -> Tensor:
        self._visible.index_fill_(3, self._slot, True)
        output = self._model(
            input_ids=self._token,
            attention_mask=self._visible,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._slot.add_(1)
        self._position.add_(1)
        logits: Tensor = output.logits[:, -1]
        return logits
