"""A round in numbers, under the field's names, each with its source; and evaluation on held-out questions."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from hivemind_exp.game.sampling.prompts import STAGE as ANSWER
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Group, Kind, Prompt, Rollout
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.tasks.base import Score, Tasks
from hivemind_exp.trainer.grpo_step import StepResult


def summarise(groups: Sequence[Group]) -> dict[Kind, dict[str, float | None]]:
    """Return, for each kind of source, what its completions of a round were like."""
    rows = [pair for group in groups for pair in group.scored()]
    kinds = dict.fromkeys(rollout.kind for rollout, _ in rows)
    return {kind: summarise_rows([pair for pair in rows if pair[0].kind is kind]) for kind in kinds}


def summarise_rows(rows: Sequence[tuple[Rollout, Score]]) -> dict[str, float | None]:
    """Return what verified completions were like.

    ``reward`` and ``reward_std`` are of the outcome, over all completions; ``points`` is the mean of the summed terms,
    None where there are none; ``completion_length`` is the mean, in tokens; ``lag`` the mean staleness, in optimizer
    steps between asking and learning, None where that is not known. Means of nothing are None.
    """
    outcomes = [score.outcome for _, score in rows]
    lags = [rollout.lag for rollout, _ in rows if rollout.lag is not None]
    lengths = [len(rollout.ids) for rollout, _ in rows]
    return {
        "count": len(rows),
        "correct": sum(score.correct for _, score in rows),
        "reward": _mean(outcomes),
        "reward_std": statistics.pstdev(outcomes) if outcomes else None,
        "points": _mean([score.reward for _, score in rows]) if any(score.terms for _, score in rows) else None,
        "completion_length": _mean(lengths),
        "truncated": sum(rollout.truncated for rollout, _ in rows),
        "tokens": sum(lengths),
        "lag": _mean(lags),
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


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


SMOOTHING = 0.5
"""Weight of the newest evaluation in the moving average of a task's pass rate."""


def evaluate(round_: int, source: LocalSource, prompts: Sequence[Prompt], tasks: Tasks) -> Evaluation:
    """Answer every prompt greedily and verify. Raises ``StopRequested``."""
    questions = [prompt.question for prompt in prompts]
    scores = tasks.score(questions, source.answer(prompts))
    asked = Counter(question.task for question in questions)
    right = Counter(question.task for question, score in zip(questions, scores, strict=True) if score.correct)
    return Evaluation(
        round=round_,
        accuracy=sum(right.values()) / len(questions),
        questions=len(questions),
        by_task={task: right[task] / count for task, count in asked.items()},
    )


def pass_rates(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return p̂ for each task: the exponential moving average over the evaluations so far, oldest first."""
    rates: dict[str, float] = {}
    for evaluation in evaluations:
        for task, rate in evaluation.by_task.items():
            rates[task] = rate if task not in rates else (1 - SMOOTHING) * rates[task] + SMOOTHING * rate
    return rates
