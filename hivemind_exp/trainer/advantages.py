"""Turns verified groups into the rows of a step. Each source's loss sets the weights of its completions."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.losses.base import GroupRows
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.tasks.base import Score
from hivemind_exp.train_settings import TrainConfig


def build_rows(groups: Sequence[Group], train: TrainConfig, pass_rates: Mapping[str, float]) -> list[TrainingRow]:
    """Return the rows to learn from, group by group.

    ``pass_rates``: this node's pass rate for each task, from evaluations. 0 for a task or stage never evaluated.
    """
    return [
        TrainingRow(
            kind=rollout.kind,
            source=rollout.maker,
            task=group.prompt.question.task,
            group=number,
            prompt_ids=group.prompt.ids,
            completion_ids=rollout.ids,
            text=rollout.text,
            outcome=score.outcome,
            advantage=advantage,
            lag=rollout.lag,
            behaviour_logps=rollout.behaviour_logps,
            teacher=None if rollout.scores is None else rollout.scores.teacher,
            teacher_logps=None if rollout.scores is None else rollout.scores.logps,
            heard=rollout.heard,
        )
        for number, group in enumerate(groups)
        for (rollout, score), advantage in _weigh(group, train, pass_rates.get(group.prompt.question.task, 0.0))
    ]


def count_tokens(groups: Sequence[Group], train: TrainConfig) -> tuple[int, int]:
    """Return ``Manifest.tokens``: the tokens of the groups' own and external completions, learned from or not."""
    losses = choose_losses(train)
    counts = Counter({True: 0, False: 0})
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        counts[losses[rollout.kind].own] += rollout.sampled
    return counts[True], counts[False]


def _weigh(group: Group, train: TrainConfig, rate: float) -> Iterator[tuple[tuple[Rollout, Score], float]]:
    """Yield each completion to learn from with its advantage, source by source."""
    losses = choose_losses(train)
    # Terms such as the format's compare own rows only. If external rows join the baseline, compare only outcomes.
    joint = any(loss.joins_baseline for loss in losses.values())

    def own_reward(score: Score) -> float:
        return score.outcome if joint else score.reward

    verified = group.scored()
    own_outcomes = [score.outcome for rollout, score in verified if losses[rollout.kind].own]
    baseline = [
        own_reward(score)
        for rollout, score in verified
        if losses[rollout.kind].own or losses[rollout.kind].joins_baseline
    ]
    for kind, source in dict.fromkeys((rollout.kind, rollout.source) for rollout, _ in verified):
        members = [pair for pair in verified if (pair[0].kind, pair[0].source) == (kind, source)]
        loss = losses[kind]
        rows = GroupRows(
            outcomes=torch.tensor([own_reward(score) if loss.own else score.outcome for _, score in members]),
            strict=torch.tensor([score.strict for _, score in members]),
            lags=tuple(rollout.lag for rollout, _ in members),
            texts=tuple(rollout.text for rollout, _ in members),
            own_outcomes=torch.tensor(baseline if loss.own else own_outcomes),
            pass_rate=rate,
        )
        weights = loss.weigh(rows, train).tolist()
        yield from ((pair, weight) for pair, weight in zip(members, weights, strict=True) if not math.isnan(weight))
