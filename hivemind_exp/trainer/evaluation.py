"""Answer and verify held-out questions; the pass rate of each task over time."""

from collections import Counter
from collections.abc import Sequence

from hivemind_exp.errors import WorkerFailed
from hivemind_exp.game.sampling.game import scores_of
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.tasks.base import Tasks

SMOOTHING = 0.5
"""Weight of the newest evaluation in the moving average of a task's pass rate."""


def evaluate(round_: int, source: LocalSource, prompts: Sequence[Prompt], tasks: Tasks) -> Evaluation:
    """Answer every prompt greedily and verify the answers. Answers that cannot be judged do not count.

    Raises ``StopRequested``, and ``WorkerFailed`` if nothing could be judged.
    """
    questions = [prompt.question for prompt in prompts]
    scores = scores_of(tasks, questions, source.answer(prompts))
    judged = [(question, score) for question, score in zip(questions, scores, strict=True) if score.judged]
    if not judged:
        raise WorkerFailed("no answer in the evaluation could be verified")
    asked = Counter(question.task for question, _ in judged)
    right = Counter(question.task for question, score in judged if score.correct)
    return Evaluation(
        round=round_,
        accuracy=sum(right.values()) / len(judged),
        questions=len(judged),
        by_task={task: right[task] / count for task, count in asked.items()},
        answers={question.digest: score.correct for question, score in judged},
    )


def pass_rates(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return p̂ for each task: the exponential moving average over the evaluations so far, oldest first."""
    rates: dict[str, float] = {}
    for evaluation in evaluations:
        for task, rate in evaluation.by_task.items():
            rates[task] = rate if task not in rates else (1 - SMOOTHING) * rates[task] + SMOOTHING * rate
    return rates
