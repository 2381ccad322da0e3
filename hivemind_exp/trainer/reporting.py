"""A round in numbers, under the field's names, each with its source."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from hivemind_exp.sources.base import Group, Kind
from hivemind_exp.trainer.grpo_step import StepResult


def summarise(groups: Sequence[Group]) -> dict[Kind, dict[str, float | None]]:
    """Return, for each kind of source, what its completions of a round were like.

    ``reward`` and ``reward_std`` are over all completions; ``completion_length`` is the mean, in tokens;
    ``lag`` the mean staleness, in optimizer steps between asking and learning, None where that is not known.
    """
    summaries: dict[Kind, dict[str, float | None]] = {}
    for kind in dict.fromkeys(rollout.kind for group in groups for rollout in group.rollouts):
        pairs = [
            (rollout, score)
            for group in groups
            for rollout, score in zip(group.rollouts, group.scores, strict=True)
            if rollout.kind is kind
        ]
        outcomes = [score.outcome for _, score in pairs]
        lags = [rollout.lag for rollout, _ in pairs if rollout.lag is not None]
        lengths = [len(rollout.ids) for rollout, _ in pairs]
        summaries[kind] = {
            "count": len(pairs),
            "correct": sum(score.correct for _, score in pairs),
            "reward": statistics.fmean(outcomes),
            "reward_std": statistics.pstdev(outcomes),
            "completion_length": statistics.fmean(lengths),
            "truncated": sum(rollout.truncated for rollout, _ in pairs),
            "tokens": sum(lengths),
            "lag": statistics.fmean(lags) if lags else None,
        }
    return summaries


def flatten(summaries: Mapping[Kind, Mapping[str, float | None]], result: StepResult) -> dict[str, float | None]:
    """Return one flat table for TensorBoard and Weights & Biases: "reward/policy", "kl/policy", …"""
    table: dict[str, float | None] = {"loss": result.loss, "grad_norm": result.grad_norm}
    table["learning_rate"] = result.learning_rate
    for kind, summary in summaries.items():
        table |= {f"{name}/{kind}": value for name, value in summary.items()}
    for kind, measured in result.by_kind.items():
        table |= {f"{name}/{kind}": value for name, value in measured.items()}
    return table
