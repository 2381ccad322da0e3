"""A micro-batch's rows as tensors, and the log-probabilities of their completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hivemind_exp.journal.records import TrainingRow

LAYOUT = 2
"""Which layout of rows a step used. 1: prompts padded on the left, completions on the right. 2: rows as a whole padded
on the right. The results differ by rounding."""
ACCELERATOR_PADDING = 8
"""Widths on an accelerator are rounded up to a multiple of this, which its matrix units need for full speed."""
_IGNORED = -100
"""The label of tokens that are not scored."""


@dataclass(frozen=True, slots=True)
class RowTensors:
    """B rows, padded on the right to the longest one. T: the longest completion."""

    rows: Sequence[TrainingRow]
    ids: Tensor
    """(B, L): each prompt with its completion."""
    labels: Tensor
    """(B, L): the completions' ids, -100 elsewhere."""
    mask: Tensor
    """(B, T): 1 for tokens that the model wrote; 0 for padding, and for what an environment said in a conversation."""
    places: Tensor
    """(B, T): the positions from which the completions' tokens are predicted."""


def lay_out(rows: Sequence[TrainingRow], fill: int, device: torch.device) -> RowTensors:
    """Return rows as tensors on ``device``. ``fill``: the id of padding.

    Tokens never see what follows them, so padding on the right needs no attention mask, and kernels without a mask are
    faster. Nothing beyond the longest row is computed.
    """
    multiple = 1 if device.type == "cpu" else ACCELERATOR_PADDING
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    width, most = -(-longest // multiple) * multiple, max(len(row.completion_ids) for row in rows)
    ids = torch.full((len(rows), width), fill)
    labels, mask = torch.full_like(ids, _IGNORED), torch.zeros((len(rows), most), dtype=torch.long)
    first = torch.tensor([len(row.prompt_ids) - 1 for row in rows])
    for i, row in enumerate(rows):
        start, end = len(row.prompt_ids), len(row.prompt_ids) + len(row.completion_ids)
        ids[i, :end] = torch.tensor(row.prompt_ids + row.completion_ids)
        labels[i, start:end] = ids[i, start:end]
        mask[i, : end - start] = 1
        for since, until in row.heard:
            mask[i, since:until] = 0
    places = (first.unsqueeze(1) + torch.arange(most)).clamp(max=width - 2)
    return RowTensors(rows, ids.to(device), labels.to(device), mask.to(device), places.to(device))


def score(model: Any, batch: RowTensors) -> tuple[Tensor, Tensor | None]:
    """Return log π of each completion's tokens, and the entropies at them if the head computes them: (B, T).

    Values at padding mean nothing. ``model``: with TRL's fused head, which divides the logits by the temperature.
    """
    output = model(input_ids=batch.ids, labels=batch.labels, fused_lm_head=True)
    entropies = None if output.entropy is None else output.entropy.gather(1, batch.places)
    return output.log_probs.gather(1, batch.places), entropies
