"""``swarmctl tasks try``: score the answers that someone types."""

from collections.abc import Sequence
from typing import Any

from hivemind_exp.tasks.base import Question, Score
from swarmctl.errors import UsageError
from swarmctl.tasks.conversing import play, play_given, typed_line
from swarmctl.tasks.opened import OpenedTask, again, opened_task
from swarmctl.tasks.scores import verdict, verdict_fields
from swarmctl.tasks.show import question_lines, reference_of
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import one_line, quoted
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
    if question.turns:
        play_given(task, question, answers, as_json=as_json)
        return
    scores = _scores(task, question, answers)
    if as_json:
        results = [_row(answer, score) for answer, score in zip(answers, scores, strict=True)]
        print_json(task=task.title, question=question.text, reference=reference_of(question), answers=results)
        return
    _print_question(question, with_reference=True)
    for answer, score in zip(answers, scores, strict=True):
        for line in quoted(answer, "  answer: ", width=None, full=False):
            print(line)
        print(f"    {verdict(score)}")


def _ask(task: OpenedTask, say: Writer) -> None:
    """Ask questions until an empty line, or the end of input."""
    number = 0
    while questions := task.questions(1, number):
        (question,) = questions
        if question.turns:
            if not play(task, question, say):
                return
            number += 1
            continue
        _print_question(question, with_reference=False)
        answer = typed_line("Your answer")
        if not answer:
            return
        (score,) = _scores(task, question, [answer])
        reference = reference_of(question)
        say(verdict(score) + ("" if reference is None else f"; the reference is {one_line(reference)}"))
        number += 1


def _scores(task: OpenedTask, question: Question, answers: Sequence[str]) -> list[Score]:
    return task.mixture.score([question] * len(answers), [f"<answer>{answer}</answer>" for answer in answers])


def _print_question(question: Question, *, with_reference: bool) -> None:
    for line in question_lines(question, full=True, with_reference=with_reference):
        print(line, flush=True)


def _row(answer: str, score: Score) -> dict[str, Any]:
    return {"answer": answer, **verdict_fields(score)}
