"""``swarmctl tasks try``: score the answers that someone types."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hivemind_exp.tasks.base import Question, Score
from swarmctl.errors import UsageError
from swarmctl.tasks.opened import OpenedTask, again, opened_task
from swarmctl.tasks.show import question_lines, reference_of
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import one_line, quoted
from swarmctl.terminal.sentences import points
from swarmctl.terminal.views import Writer


def try_task(
    name: str, params: Sequence[str], answers: Sequence[str], *, seed: int, as_json: bool, prompter: Prompter
) -> None:
    """Score answers to the first question, or ask one question after the other.

    Raises UsageError if there is neither an answer nor a terminal, and ``NodeError`` if the task cannot be used.
    """
    if not answers and not prompter.can_ask:
        raise UsageError("cannot prompt for an answer here. Use --answer TEXT", next="swarmctl tasks try --help")
    with opened_task(name, params, seed, prompter, again("try", name, params, "--yes")) as task:
        if answers:
            _score_given(task, answers, as_json=as_json)
        else:
            _ask(task, prompter.say)


def _score_given(task: OpenedTask, answers: Sequence[str], *, as_json: bool) -> None:
    (question,) = task.questions(1)
    scores = _scores(task, question, answers)
    if as_json:
        results = [_row(answer, score) for answer, score in zip(answers, scores, strict=True)]
        print_json(task=task.title, question=question.text, reference=reference_of(question), answers=results)
        return
    _print_question(question, with_reference=True)
    for answer, score in zip(answers, scores, strict=True):
        for line in quoted(answer, "  answer: ", width=None, full=False):
            print(line)
        print(f"    {_verdict(score)}")


def _ask(task: OpenedTask, say: Writer) -> None:
    """Ask questions until an empty line, or the end of input."""
    number = 0
    while questions := task.questions(1, number):
        (question,) = questions
        _print_question(question, with_reference=False)
        sys.stderr.write("Your answer (Enter to stop): ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip()
        if not answer:
            return
        (score,) = _scores(task, question, [answer])
        reference = reference_of(question)
        say(_verdict(score) + ("" if reference is None else f"; the reference is {one_line(reference)}"))
        number += 1


def _scores(task: OpenedTask, question: Question, answers: Sequence[str]) -> list[Score]:
    return task.mixture.score([question] * len(answers), [f"<answer>{answer}</answer>" for answer in answers])


def _print_question(question: Question, *, with_reference: bool) -> None:
    for line in question_lines(question, full=True, with_reference=with_reference):
        print(line, flush=True)


def _verdict(score: Score) -> str:
    if not score.judged:
        return "not verified: the verifiers keep failing"
    word = "correct" if score.correct else "partly correct" if score.outcome else "wrong"
    why = "" if score.why == word else f": {one_line(score.why)}"
    partly = "; it counts only with game.partial_credit = true" if score.outcome > 0 and not score.correct else ""
    terms = f"; {points(score.terms)}" if score.terms else ""
    return f"{word} (outcome {score.outcome:g}{why}{partly}), reward {score.reward:g}{terms}"


def _row(answer: str, score: Score) -> dict[str, Any]:
    known = score.judged
    return {
        "answer": answer,
        "correct": score.correct if known else None,
        "outcome": score.outcome if known else None,
        "reward": score.reward if known else None,
        "terms": [asdict(term) for term in score.terms],
        "why": score.why,
    }
