"""Decoding on an NVIDIA card with a CUDA graph: one launch per token instead of hundreds.

The forward pass of one token, and drawing the next one, take a card less time than Python needs to launch the kernels.
So the second one is recorded, and the others replay it. Keys and values have a fixed place in memory for that (a
static cache).
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
TOKENS_PER_LOOK = 16
"""After each of so many tokens, decoding looks whether all completions have ended."""


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
    look: Callable[[Callable[[], int]], None] = lambda _: None,
) -> Tensor:
    """Return the completions (B, T ≤ ``most``) of prompts (B, P), which are padded on the left.

    ``choose``: returns the next tokens (B,) from logits (B, V), without waiting for the device. A GPU records it in the
    graph, so its side effects happen only at the first tokens. After one of ``end_ids``, a row continues with ``fill``.
    ``check`` is called once per token and may raise, and ``look`` with what counts the ended completions (which waits
    for the device). Expects evaluation mode and no gradients.
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
    tokens = _Tokens(batch, most=most, choose=choose, end_ids=end_ids, fill=fill, device=ids.device)
    step = _Step(model, cache, mask, length, tokens)
    tokens.add(output.logits[:, -1])
    for made in range(1, most):
        check()
        look(tokens.count_ended)
        # Asking the card makes Python wait for it, so that it runs dry.
        if made % TOKENS_PER_LOOK == 0 and tokens.all_ended():
            break
        step()
    check()
    return tokens.generated()


class _Tokens:
    """The tokens so far. Everything that ``add`` uses is on the device, so that a graph can replay it."""

    def __init__(
        self,
        batch: int,
        *,
        most: int,
        choose: Callable[[Tensor], Tensor],
        end_ids: Collection[int],
        fill: int,
        device: torch.device,
    ) -> None:
        self._choose, self._fill = choose, fill
        self._ends = torch.tensor(sorted(end_ids), device=device)
        self._ended = torch.zeros(batch, dtype=torch.bool, device=device)
        self._all = torch.full((batch, most), fill, device=device)
        self._place = torch.zeros(1, dtype=torch.long, device=device)
        self.last = torch.zeros((batch, 1), dtype=torch.long, device=device)
        """(B, 1)"""

    def add(self, logits: Tensor) -> None:
        """Choose the next tokens from logits (B, V)."""
        chosen = torch.where(self._ended, self._fill, self._choose(logits))
        self._ended |= (chosen.unsqueeze(1) == self._ends).any(1)
        self.last.copy_(chosen.unsqueeze(1))
        self._all.index_copy_(1, self._place, self.last)
        self._place += 1

    def all_ended(self) -> bool:
        return bool(self._ended.all())

    def count_ended(self) -> int:
        return int(self._ended.sum())

    def generated(self) -> Tensor:
        """Return the tokens (B, T), up to the end of the longest completion."""
        ends = torch.isin(self._all, self._ends)
        count = int(self._place)
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, count)
        return self._all[:, : int(lengths.max())]


class _Layer(StaticLayer):  # type: ignore[misc]
    """Keeps keys in the values' number format: autocast leaves them in float32, and attention would convert them."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)
        return keys, values


class _Step:
    """One token more for every row: the forward pass of the last one, behind those in the cache, and the choice."""

    def __init__(self, model: PreTrainedModel, cache: Cache, mask: Tensor, length: int, tokens: _Tokens) -> None:
        batch, width = mask.shape
        self._model, self._cache, self._tokens = model, cache, tokens
        self._position = mask.sum(1, keepdim=True)
        self._slot = torch.tensor([width], device=mask.device)
        self._visible = torch.zeros((batch, 1, 1, length), dtype=torch.bool, device=mask.device)
        self._visible[:, 0, 0, :width] = mask.bool()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0

    def __call__(self) -> None:
        self._steps += 1
        # Not the first step, because kernels are loaded when they are first used.
        if self._steps == 2 and on_nvidia(self._tokens.last):
            self._record()
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _record(self) -> None:
        """Record the step, without running it. Not if there is no memory for it or the model synchronizes."""
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._run()
        except RuntimeError:
            return
        self._graph = graph

    def _run(self) -> None:
        self._visible.index_fill_(3, self._slot, True)
        output = self._model(
            input_ids=self._tokens.last,
            attention_mask=self._visible,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._slot.add_(1)
        self._position.add_(1)
        self._tokens.add(output.logits[:, -1])
