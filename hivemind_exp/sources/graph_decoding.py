"""Decoding on an NVIDIA card with a CUDA graph: one launch per token instead of hundreds.

The forward pass of one token, and drawing the next one, take a card less time than Python needs to launch the kernels.
So the second one is recorded, and the others replay it. Keys and values have a fixed place in memory for that (a
static cache). If there are more prompts than rows, a waiting prompt takes the row of a completion that has ended.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticCache, StaticLayer

LENGTH_MULTIPLE = 32
"""The cache's length is rounded up to a multiple of this: new shapes cost new memory blocks."""
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that look at the positions in every step, which a graph cannot do."""
FEWEST = 8
"""Completions with fewer tokens at most are not worth recording a graph."""
TOKENS_PER_LOOK = 16
"""After each of so many tokens, decoding looks which completions have ended."""
REFILL_SHARE = 4
"""Waiting prompts are computed once one row in so many is free: one prompt takes the card almost as long as several."""


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
    limits: Sequence[int],
    choose: Callable[[Tensor], Tensor],
    end_ids: Collection[int],
    fill: int,
    rows: int | None = None,
    check: Callable[[], None] = lambda: None,
    look: Callable[[Callable[[], int]], None] = lambda _: None,
) -> Tensor:
    """Return the completions (N, T) of prompts (N, P), which are padded on the left.

    ``limits``: the most tokens of each completion. T is the longest completion's length; after its end, a completion
    continues with ``fill``. ``choose``: returns the next tokens (B,) from logits (B, V), without waiting for the
    device. A GPU records it in the graph, so its side effects happen only at the first tokens. A completion ends with
    one of ``end_ids``, or at its limit. ``rows``: how many completions are generated at a time; None: all. ``check`` is
    called once per token and may raise, and ``look`` with what counts the ended completions (which waits for the
    device). Expects evaluation mode and no gradients.
    """
    size = min(rows or len(ids), len(ids))
    tokens = _Tokens(size, limits, choose=choose, end_ids=end_ids, fill=fill, device=ids.device)
    most = max(limits)
    step = _Step(model, ids, mask, tokens, most)
    step.fill_rows(range(size))
    made, last = 1, most
    while True:
        check()
        look(tokens.count_ended)
        # Asking the card makes Python wait for it, so that it runs dry.
        if made % TOKENS_PER_LOOK == 0 or made >= last:
            free = tokens.free_rows()
            if step.waiting == 0 and len(free) == size:
                return tokens.generated()
            if step.waiting and len(free) * REFILL_SHARE >= size:
                step.fill_rows(free[: step.waiting])
                last = made + most
        step.run()
        made += 1


class _Tokens:
    """The tokens so far. Everything that ``add`` uses is on the device, so that a graph can replay it."""

    def __init__(
        self,
        size: int,
        limits: Sequence[int],
        *,
        choose: Callable[[Tensor], Tensor],
        end_ids: Collection[int],
        fill: int,
        device: torch.device,
    ) -> None:
        """``size``: the number of rows."""
        self._choose, self._fill = choose, fill
        self._ends = torch.tensor(sorted(end_ids), device=device)
        self._limits = torch.tensor(limits, device=device)
        # One column more than tokens, for what is written behind completions of the full length.
        self._all = torch.full((len(limits), max(limits) + 1), fill, device=device)
        self._completion = torch.zeros(size, dtype=torch.long, device=device)
        self._place = torch.zeros(size, dtype=torch.long, device=device)
        self._begun = 0
        self.ended = torch.ones(size, dtype=torch.bool, device=device)
        """(B,), whether each row's completion has ended."""
        self.last = torch.zeros((size, 1), dtype=torch.long, device=device)
        """(B, 1)"""

    def begin(self, rows: Tensor, logits: Tensor) -> None:
        """Begin the next completions in these rows (K,), and choose their first tokens from logits (K, V)."""
        count = len(rows)
        self._completion[rows] = torch.arange(self._begun, self._begun + count, device=rows.device)
        self._begun += count
        self._place[rows] = 0
        self.ended[rows] = False
        self._write(rows, self._choose(logits))

    def add(self, logits: Tensor) -> None:
        """Choose the next tokens of all rows from logits (B, V)."""
        self._write(slice(None), torch.where(self.ended, self._fill, self._choose(logits)))

    def _write(self, rows: Tensor | slice, chosen: Tensor) -> None:
        completion, place = self._completion[rows], self._place[rows]
        self._all.index_put_((completion, place), chosen)
        self.last[rows] = chosen.unsqueeze(1)
        place = place + ~self.ended[rows]
        full = place >= self._limits[completion]
        self.ended[rows] |= (chosen.unsqueeze(1) == self._ends).any(1) | full
        self._place[rows] = place

    def free_rows(self) -> list[int]:
        """Return the rows whose completion has ended."""
        found: list[int] = self.ended.nonzero().flatten().tolist()
        return found

    def count_ended(self) -> int:
        """Return how many completions have ended."""
        return self._begun - int((~self.ended).sum())

    def generated(self) -> Tensor:
        """Return the tokens (N, T), up to the end of the longest completion."""
        ends = torch.isin(self._all, self._ends)
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, self._limits)
        # ``fill`` can be an end, too.
        return self._all[:, : int(lengths.minimum(self._limits).max())]


class _PromptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of prompts in one layer, in the values' number format.

    Autocast leaves keys in float32 where rotary embeddings are computed in it, and attention converts them. A dynamic
    layer would convert the values to the keys' format instead.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        kept: tuple[Tensor, Tensor] = super().update(key_states.to(value_states.dtype), value_states)
        return kept


class _Layer(StaticLayer):  # type: ignore[misc]
    """Keys and values of one layer, at a place of its own for each row, in the values' number format."""

    def __init__(self, slots: Tensor, length: int) -> None:
        """``slots``: (B, 1, 1, 1), where each row's next token belongs."""
        super().__init__(max_cache_len=length)
        self._slots = slots

    def place(self, keys: Tensor, values: Tensor, rows: Tensor, start: int) -> None:
        """Keep the keys and values of prompts (K, H, P, D) in these rows (K,), from position ``start`` on."""
        if not self.is_initialized:
            size = len(self._slots)
            self.lazy_initialization(*(values.new_empty(1).expand(size, *each.shape[1:]) for each in (keys, values)))
        self.keys[rows, :, start : start + keys.size(2)] = keys
        self.values[rows, :, start : start + keys.size(2)] = values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of one token per row (B, H, 1, D)."""
        slots = self._slots.expand_as(value_states)
        self.keys.scatter_(2, slots, key_states.to(value_states.dtype))
        self.values.scatter_(2, slots, value_states)
        return self.keys, self.values


class _Step:
    """One token more for every row: the forward pass of the last one, behind those in the cache, and the choice."""

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, tokens: _Tokens, most: int) -> None:
        self._model, self._ids, self._mask, self._tokens = model, ids, mask, tokens
        length = -(-(ids.size(1) + most) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        size, device = len(tokens.ended), ids.device
        self._slots = torch.full((size, 1, 1, 1), ids.size(1), device=device)
        self._position = torch.zeros((size, 1), dtype=torch.long, device=device)
        self._visible = torch.zeros((size, 1, 1, length), dtype=torch.bool, device=device)
        layers = StaticCache(model.config, max_cache_len=1).layers
        self._layers = [_Layer(self._slots, length) for _ in layers]
        self._cache = Cache(layers=self._layers)
        self.waiting = len(ids)
        """How many prompts have no row yet."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0

    def fill_rows(self, rows: Sequence[int]) -> None:
        """Give these rows the next prompts, and choose the first tokens of their completions."""
        start = len(self._ids) - self.waiting
        self.waiting -= len(rows)
        chosen = torch.tensor(list(rows), device=self._ids.device)
        mask = self._mask[start : start + len(rows)]
        ids = self._ids[start : start + len(rows)]
        width = int(mask.sum(1).max())
        padding = mask.size(1) - width
        ids, mask = ids[:, padding:], mask[:, padding:]
        prompts = Cache(layer_class_to_replicate=_PromptLayer)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=prompts,
            use_cache=True,
            logits_to_keep=1,
        )
        for layer in self._layers:
            computed = prompts.layers.pop(0)
            layer.place(computed.keys, computed.values, chosen, padding)
        self._visible[chosen] = False
        self._visible[chosen, 0, 0, padding : padding + width] = mask.bool()
        self._slots[chosen] = self._mask.size(1)
        self._position[chosen] = mask.sum(1, keepdim=True)
        self._tokens.begin(chosen, output.logits[:, -1])

    def run(self) -> None:
        """Add a token to every row that has not ended."""
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
        self._visible.scatter_(3, self._slots, True)
        output = self._model(
            input_ids=self._tokens.last,
            attention_mask=self._visible,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        # A row that has ended stays at its place, which is in the cache.
        going = ~self._tokens.ended.unsqueeze(1)
        self._slots.add_(going[..., None, None])
        self._position.add_(going)
        self._tokens.add(output.logits[:, -1])
