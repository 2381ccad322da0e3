"""From verified groups to the rows of a step: each source's loss says what its completions weigh."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.losses import LOSSES, GroupRows, LossSettings
from hivemind_exp.rollouts.types import Group, Kind, Rollout
from hivemind_exp.tasks.base import Score

Verified = tuple[Rollout, Score]


def build_rows(groups: Sequence[Group], settings: LossSettings, pass_rates: Mapping[str, float]) -> list[TrainingRow]:
    """Return the rows that may be learned from, group after group.

    ``pass_rates``: this node's own pass rate for each task, from evaluation; 0 for a task or stage never evaluated.
    """
    rows: list[TrainingRow] = []
    for number, group in enumerate(groups):
        verified = list(zip(group.rollouts, group.scores, strict=True))
        rate = pass_rates.get(group.prompt.question.task, 0.0)
        for (rollout, score), advantage in _weigh(verified, settings, rate):
            rows.append(
                TrainingRow(
                    kind=rollout.kind,
                    source=_source(rollout),
                    task=group.prompt.question.task,
                    group=number,
                    prompt_ids=group.prompt.ids,
                    completion_ids=rollout.ids,
                    text=rollout.text,
                    outcome=score.outcome,
                    advantage=advantage,
                    lag=rollout.lag,
                    behaviour_logps=rollout.behaviour_logps,
                )
            )
    return rows


def _source(rollout: Rollout) -> str:
    """Return who made a rollout, with the model that a provider names. What a peer says of its model is not known."""
    if rollout.model is None or rollout.kind is Kind.PEER:
        return rollout.source
    return f"{rollout.source}:{rollout.model}"


def _weigh(verified: Sequence[Verified], settings: LossSettings, rate: float) -> Iterator[tuple[Verified, float]]:
    """Yield each completion that may be learned from with its advantage, source by source."""
    own = [score.outcome for rollout, score in verified if rollout.kind.own]
    # LUFFY normalises own and foreign rows together, so there the own rows' baseline is the joint group's.
    luffy = settings.teacher_loss == "luffy"
    if luffy:
        joint = [score.outcome for rollout, score in verified if rollout.kind.own or rollout.kind is Kind.TEACHER]
    else:
        joint = [score.reward for rollout, score in verified if rollout.kind.own]
    for kind, source in dict.fromkeys((rollout.kind, rollout.source) for rollout, _ in verified):
        members = [pair for pair in verified if (pair[0].kind, pair[0].source) == (kind, source)]
        advantages = (
            LOSSES[kind]
            .weigh(
                GroupRows(
                    # Terms of form and likeness weigh own rows alone; beside foreign ones only the outcome compares.
                    outcomes=torch.tensor(
                        [score.reward if kind.own and not luffy else score.outcome for _, score in members]
                    ),
                    strict=torch.tensor([score.strict for _, score in members]),
                    lags=tuple(rollout.lag for rollout, _ in members),
                    own_outcomes=torch.tensor(joint if kind.own else own),
                    pass_rate=rate,
                ),
                settings,
            )
            .tolist()
        )
        yield from ((pair, weight) for pair, weight in zip(members, advantages, strict=True) if not math.isnan(weight))
