"""A round in numbers, under the field's names, each with its source."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hivemind_exp.game.sampling.prompts import STAGE as ANSWER
from hivemind_exp.rollouts.types import Group, Kind
from hivemind_exp.trainer.grpo_step import StepResult


def summarise(groups: Sequence[Group]) -> dict[Kind, dict[str, float | None]]:
    """Return, for each kind of source, what its completions of a round were like.

    ``reward`` and ``reward_std`` are of the outcome, over all completions; ``points`` is the mean of the summed terms,
    None where there are none; ``completion_length`` is the mean, in tokens; ``lag`` the mean staleness, in optimizer
    steps between asking and learning, None where that is not known.
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
            "points": statistics.fmean(score.reward for _, score in pairs) if any(s.terms for _, s in pairs) else None,
            "completion_length": statistics.fmean(lengths),
            "truncated": sum(rollout.truncated for rollout, _ in pairs),
            "tokens": sum(lengths),
            "lag": statistics.fmean(lags) if lags else None,
        }
    return summaries


@dataclass(slots=True)
class GeneratedTokens:
    """What a round has generated so far."""

    tokens: int = 0
    here: bool = True
    """Only this machine generated. What an API generates it may have generated long before."""

    def add(self, summaries: Mapping[Kind, Mapping[str, float | None]], *, here: Kind) -> None:
        """Count a stage; ``here``: the kind of what this machine makes."""
        own = {kind: summary for kind, summary in summaries.items() if kind is not Kind.PEER}
        self.tokens += sum(int(summary["tokens"] or 0) for summary in own.values())
        self.here = self.here and all(kind is here for kind in own)

    def per_second(self, seconds: float) -> float | None:
        """Return tokens a second; None where the time spent waiting for them is no measure."""
        return self.tokens / seconds if self.here and seconds > 0 else None


def flatten(
    summaries: Mapping[Kind, Mapping[str, float | None]], result: StepResult, stage: str = ANSWER
) -> dict[str, float | None]:
    """Return one flat table for TensorBoard and Weights & Biases: "reward/policy", "kl/policy", …

    Names of a later stage begin with it: "critique/reward/policy".
    """
    table: dict[str, float | None] = {"loss": result.loss, "grad_norm": result.grad_norm}
    table["learning_rate"] = result.learning_rate
    for kind, summary in summaries.items():
        table |= {f"{name}/{kind}": value for name, value in summary.items()}
    for kind, measured in result.by_kind.items():
        table |= {f"{name}/{kind}": value for name, value in measured.items()}
    return table if stage == ANSWER else {f"{stage}/{name}": value for name, value in table.items()}
