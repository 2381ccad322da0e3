"""``swarmctl tasks show``: a task's description, parameters and questions."""

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hivemind_exp.config import OWN_FILE, TaskConfig
from hivemind_exp.foreign_text import visible
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.families.reasoning_gym import default_params
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS
from swarmctl.settings.command_line import inline
from swarmctl.tasks.list import listed_tasks
from swarmctl.tasks.opened import again, opened_task, run_hint
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import clean, quoted
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer

_MARK = "    | "


def show_task(
    name: str, params: Sequence[str], *, count: int, seed: int, full: bool, as_json: bool, prompter: Prompter
) -> None:
    """Print a task with its first questions. Raises ``NodeError`` if it does not exist or cannot be used."""
    retry = again("show", name, params, "--yes")
    with opened_task(name, params, seed, prompter, retry, verifiers=0) as task:
        questions = task.questions(count) if count else []
        facts = [asdict(fact) for fact in task.mixture.facts()]
    about, known = described(task.config), _parameters(task.config)
    if as_json:
        shown = [_row(each) for each in questions]
        print_json(task=task.title, description=about, params=known, parts=facts, questions=shown)
        return
    write = Writer(sys.stdout)
    write(f"{task.title}: {about}" if about else task.title)
    for fact in facts:
        if fact["size"] is not None:
            write(f"  {fact['size']:,} questions to train on")
    if versions := dict.fromkeys(visible(fact["version"]) for fact in facts if fact["version"]):
        write(f"  from {', '.join(versions)}")
    if known:
        write("  parameters: " + ", ".join(f"{key}={value}" for key, value in known.items()), indent="    ")
    for number, question in enumerate(questions):
        write("")
        task_label = f", {question.task}" if len(facts) > 1 else ""
        write(f"[{number}{task_label}]")
        for line in question_lines(question, full=full):
            print(line)
    write("")
    write("To answer them yourself:")
    write(f"  {typed(again('try', name, params))}")
    write("To train on it:")
    write(f"  {typed(run_hint(task, params))}")


def question_lines(question: Question, *, full: bool, with_reference: bool = True) -> list[str]:
    """Return a question, and its reference answer if any, for the terminal. Both are untrusted text."""
    width = width_of(sys.stdout)
    lines = list(quoted(question.text, _MARK, width=width, full=full))
    reference = reference_of(question) if with_reference else None
    return lines if reference is None else [*lines, *quoted(reference, "  reference: ", width=width, full=full)]


def reference_of(question: Question) -> str | None:
    """Return a question's reference answer as text; None if it has none."""
    answer = question.entry.get("answer")
    return None if answer is None else str(answer)


def described(config: TaskConfig) -> str | None:
    """Return a task's description: for a Python file, the first line of its docstring."""
    if config.name == OWN_FILE and config.path is not None:
        try:
            about = ast.get_docstring(ast.parse(Path(config.path).expanduser().read_bytes())) or ""
        except (OSError, ValueError, SyntaxError):
            return None  # the workers report it
        return clean(visible(about.partition("\n")[0])) or None
    return next((task.description for task in listed_tasks() if task.name == config.name), None)


def _parameters(config: TaskConfig) -> dict[str, str]:
    """Return the parameters with their values, as set or by default, as ``--param`` takes them.

    Empty if they are unknown.
    """
    given = {key: inline(value) for key, value in config.params.items()}
    if config.name not in GENERATORS:
        return given
    defaults: Mapping[str, ast.expr | None] = default_params(config.name)
    return {key: "required" if value is None else _typed(value) for key, value in defaults.items()} | given


def _typed(default: ast.expr) -> str:
    try:
        return inline(ast.literal_eval(default))
    except (ValueError, TypeError):  # not a literal, or none that TOML has
        return ast.unparse(default)


def _row(question: Question) -> dict[str, Any]:
    return {"task": question.task, "question": question.text, "reference": reference_of(question)}
