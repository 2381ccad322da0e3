"""Sources whose completions have given lengths: a node's own, and one that calls stock ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.sources.graph_decoding import can_decode
from hivemind_exp.sources.local import LocalSource


@dataclass(eq=False)
class MeasuredSource(LocalSource):
    """Generates as a node does, but each completion ends when it has its length."""

    lengths: Sequence[int] = ()
    """Tokens of each completion of a batch. Empty: as the model has it."""
    plain: bool = False
    """Whether to call stock ``generate``."""

    def _turns(self, prompts: Sequence[Prompt], rooms: Sequence[int], seed: int | None) -> list[Rollout]:
        return super()._turns(prompts, self.lengths or rooms, seed)

    def _batch(self, prompts: Sequence[Prompt], rooms: Sequence[int], **how: Any) -> list[Rollout]:
        if not self.plain:
            assert self._model.device.type == "cpu" or can_decode(self._model, max(rooms))
            return super()._batch(prompts, rooms, **how)
        return self._generate(prompts, max(rooms))

    def _sample(self, logits: Tensor) -> Tensor:
        tokens, end = super()._sample(logits), self._end_ids[0]
        return torch.where(tokens == end, end + 1, tokens) if self.lengths else tokens

    def _generate(self, prompts: Sequence[Prompt], most: int) -> list[Rollout]:
        width, fill = max(len(prompt.ids) for prompt in prompts), self._tokenizer.pad_token_id
        rows = [[fill] * (width - len(prompt.ids)) + list(prompt.ids) for prompt in prompts]
        ids = torch.tensor(rows, device=self._model.device)
        mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=ids.device)
        found = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation_config(sample=True, most=most),
            logits_processor=LogitsProcessorList([_Ends(self.lengths, self._end_ids[0], width)]),
        )
        return list(map(partial(LocalSource._rollout, self), found[:, width:].tolist()))


class _Ends(LogitsProcessor):  # type: ignore[misc]
    """Allows only the end where a completion has its length, and everything else before."""

    def __init__(self, lengths: Sequence[int], end: int, width: int) -> None:
        self._lengths, self._end, self._width = lengths, end, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._lengths:
            return scores
        last = torch.tensor(self._lengths, device=scores.device) == input_ids.size(1) - self._width + 1
        scores[:, self._end] = torch.where(last, torch.inf, -torch.inf)
        scores = scores.masked_fill(last.unsqueeze(1) & (scores != torch.inf), -torch.inf)
        scores[:, self._end] = torch.where(last, 0.0, -torch.inf)
        return scores
