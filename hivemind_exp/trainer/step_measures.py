"""What the micro-batches of a step measure, and its summary for each kind of source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from hivemind_exp.losses.base import Loss
from hivemind_exp.source_kinds import Kind


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one optimizer step."""

    loss: float
    grad_norm: float
    """Before clipping. If it is not finite, the step was skipped and the weights are unchanged."""
    learning_rate: float
    tokens: int
    """Completion tokens of the rows that it learned from, without those that an environment wrote."""
    rows: int
    """Rows that it learned from."""
    by_kind: dict[Kind, dict[str, float | None]] = field(default_factory=dict)
    """For each kind of source: source_rows (its share of ``rows``), entropy (nats per token), kl (nats per token;
    None without a reference), clip_fraction (None without importance weights), source_grad_norm (norm of the
    gradient of its rows alone, before clipping). For external kinds also nll: the negative log-likelihood of their
    rows, in nats per token. For peers also filtered: the rows filtered out because this node is unlikely to
    generate them. If a teacher scored own rows, also reverse_kl: the mean log π_θ - log π_teacher over the scored
    tokens, in nats, each within ±5."""


@dataclass(frozen=True, slots=True)
class StepMeasures:
    """What one process measured while it computed its share of a step's gradient."""

    loss: float
    sums: dict[Kind, list[float]]
    """For each kind: entropy, kl, clipped tokens, negative log-likelihood, filtered rows, reverse KL, and tokens that a
    teacher scored."""
    tokens: Counter[Kind]
    weighted: frozenset[Kind]
    """The kinds whose tokens had importance weights."""

    def pack(self) -> list[Any]:
        """Return plain lists for another process."""
        return [self.loss, self.sums, self.tokens, sorted(self.weighted)]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Self:
        """Read what ``pack`` wrote."""
        loss, sums, tokens, weighted = packed
        counted = Counter({Kind(kind): count for kind, count in tokens.items()})
        return cls(loss, {Kind(kind): values for kind, values in sums.items()}, counted, frozenset(map(Kind, weighted)))

    @classmethod
    def join(cls, parts: Iterable[StepMeasures]) -> StepMeasures:
        """Return what several processes measured together."""
        first, *others = parts
        sums, tokens, weighted, loss = dict(first.sums), Counter(first.tokens), first.weighted, first.loss
        for part in others:
            loss, weighted = loss + part.loss, weighted | part.weighted
            tokens.update(part.tokens)
            for kind, values in part.sums.items():
                before = sums.get(kind, [0.0] * len(values))
                sums[kind] = [one + other for one, other in zip(before, values, strict=True)]
        return cls(loss, sums, tokens, weighted)

    def summary(self, kind: Kind, loss: Loss, *, penalty: bool) -> dict[str, float | None]:
        """Return the means of a kind. ``loss``: the kind's; ``penalty``: whether the step has a KL penalty."""
        tokens = self.tokens[kind]
        entropy, kl, clipped, nll, filtered, divergence, scored = self.sums[kind]
        summary = {
            "entropy": entropy / tokens,
            "clip_fraction": clipped / tokens if kind in self.weighted else None,
            "kl": kl / tokens if penalty and loss.own else None,
            "nll": None if loss.own else nll / tokens,
        }
        if scored:
            summary["reverse_kl"] = divergence / scored
        return summary | ({"filtered": int(filtered)} if loss.likelihood_filter else {})


class Measuring:
    """Adds up what micro-batches measure. Nothing is read from the device before ``read``, which waits for it."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sums: dict[Kind, Tensor] = {}
        self._tokens: Counter[Kind] = Counter()
        self._weighted: set[Kind] = set()

    def add_loss(self, loss: Tensor) -> None:
        """Count a micro-batch's loss."""
        self._losses.append(loss)

    def add(self, kind: Kind, tokens: int, values: Sequence[Tensor], *, weighted: bool) -> None:
        """Count the rows of a kind in a micro-batch. ``values``: as ``StepMeasures.sums``, each summed here."""
        sums = torch.stack([value.detach().float().sum() for value in values])
        self._sums[kind] = self._sums[kind] + sums if kind in self._sums else sums
        self._tokens[kind] += tokens
        if weighted:
            self._weighted.add(kind)

    def read(self) -> StepMeasures:
        """Return everything that was measured."""
        sums = {kind: values.tolist() for kind, values in self._sums.items()}
        return StepMeasures(float(sum(self._losses)), sums, Counter(self._tokens), frozenset(self._weighted))
