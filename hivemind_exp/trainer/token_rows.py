"""The rows of a step as tensors: what their tokens' losses are multiplied by, and the known log-probabilities."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.base import Loss, TokenRows
from hivemind_exp.losses.distillation import token_advantages
from hivemind_exp.rollouts.types import answer_tokens
from hivemind_exp.source_kinds import Kind


def token_scales(manifest: Manifest, losses: Mapping[Kind, Loss], weight: float) -> dict[Kind, float]:
    """Return what the loss of each kind's tokens is multiplied by. ``weight``: λ.

    All tokens share one denominator, which counts everything that was asked for or drawn, kept or refused. So a token
    weighs the same whatever its source, however few rows of that source are kept. External tokens together weigh no
    more than own ones, so that long external text cannot drown out the node's own rows, unless the paper of the loss
    weighs them differently.
    """
    kinds = {row.kind for row in manifest.rows}
    if manifest.tokens is None:
        counted: Counter[bool] = Counter()
        for row in manifest.rows:
            counted[losses[row.kind].own] += row.sampled
        return {kind: (1.0 if losses[kind].own else weight) / counted[losses[kind].own] for kind in kinds}
    own, external = manifest.tokens
    share = min(1.0, own / external) if own and external else 1.0
    return {
        kind: (1.0 if losses[kind].own else weight * (1.0 if losses[kind].equal_tokens else share)) / (own + external)
        for kind in kinds
    }


def own_like(logps: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Return which rows (B,) have a mean log-probability per token of at least ``floor``. Inputs are (B, T)."""
    means = (logps.detach() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return means >= floor


def outside_answers(rows: Sequence[TrainingRow], mask: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return 0 for the tokens of a row's answer, else 1, in the form of ``mask`` (B, T)."""
    outside = torch.ones_like(mask)
    for i, row in enumerate(rows):
        answer = answer_tokens(tokenizer, row.completion_ids, row.text)
        outside[i, answer.start : answer.stop] = 0
    return outside


def token_rows(rows: Sequence[TrainingRow], logps: Tensor, mask: Tensor) -> TokenRows:
    """Return B rows as a loss takes them. ``logps``: (B, T), log π_θ with gradient; ``mask``: (B, T), 1 for tokens."""
    advantages = torch.tensor([row.advantage for row in rows], device=logps.device)
    behaviour = _known_logps([row.behaviour_logps for row in rows], logps)
    return TokenRows(logps, advantages, mask, behaviour, _known_logps([row.teacher_logps for row in rows], logps))


def _known_logps(known: Sequence[tuple[float, ...] | None], like: Tensor) -> Tensor | None:
    """Return log-probabilities as a tensor of the form ``like`` (B, T), NaN where unknown. None if all are."""
    if all(values is None for values in known):
        return None
    found = torch.full_like(like, torch.nan)
    for i, values in enumerate(known):
        if values is not None:
            found[i, : len(values)] = torch.tensor(values, device=like.device)
    return found


def reverse_kl(rows: TokenRows) -> tuple[Tensor, Tensor]:
    """Return the sum of log π_θ - log π_teacher over the tokens that a teacher scored, and their number."""
    if rows.teacher_logps is None:
        zero = torch.zeros((), device=rows.logps.device)
        return zero, zero
    advantages = token_advantages(rows.logps, rows.teacher_logps)
    known = rows.mask.bool() & ~advantages.isnan()
    return -advantages[known].sum(), known.sum()
