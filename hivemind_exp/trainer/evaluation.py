"""The node's own policy, greedy, on questions it never trains on."""

from collections import Counter
from collections.abc import Sequence

from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.tasks.base import Tasks

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
