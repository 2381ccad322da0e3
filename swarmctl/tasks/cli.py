"""``swarmctl tasks``: list, show, try."""

from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="Task, preset, env:PACKAGE, or path of your questions or Python file.")
]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Change a parameter of the task (repeatable).")
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the questions.")]

group = command_group(
    """List tasks, look at their questions, and try answers.

    Examples:
      swarmctl tasks list
      swarmctl tasks show basic_arithmetic --param max_terms=3
      swarmctl tasks try mine.py
    """
)


@group.command("list")
def _list(json: options.Json = False) -> None:
    """List all tasks with a description.

    Includes the tasks of installed packages, and installed environments of verifiers.

    Examples:
      swarmctl tasks list
      swarmctl tasks list --json
    """
    from swarmctl.tasks.list import list_tasks

    list_tasks(as_json=json)


@group.command("show")
def _show(
    task: TaskName,
    *,
    count: Annotated[
        int, typer.Option("-n", "--questions", min=0, max=1000, metavar="N", help="Number of questions.")
    ] = 10,
    param: Params = None,
    seed: Seed = 0,
    full: Annotated[bool, typer.Option("--full", help="Don't truncate long texts.")] = False,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Print a task's parameters and some of its questions.

    Each question comes with its reference answer, if it has one.

    Examples:
      swarmctl tasks show spell_backward --param max_word_len=5
      swarmctl tasks show questions.jsonl -n 3 --full
      swarmctl tasks show mine.py --json
      swarmctl tasks show env:my-environment
    """
    from swarmctl.tasks.show import show_task
    from swarmctl.terminal.prompter import Prompter

    prompter = Prompter(yes=yes, silent=no_input or json)
    show_task(task, tuple(param or ()), count=count, seed=seed, full=full, as_json=json, prompter=prompter)


@group.command("try")
def _try(
    task: TaskName,
    *,
    answer: Annotated[
        list[str] | None,
        typer.Option("--answer", metavar="TEXT", help="Answer to the first question, or next turn (repeatable)."),
    ] = None,
    param: Params = None,
    seed: Seed = 0,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> None:
    """Answer a task's questions, and see how your answers score.

    Asks questions one by one, until you press Enter without an answer. In a script, use --answer.
    In an environment with several turns, you hold a conversation: each answer is one turn.

    Examples:
      swarmctl tasks try gcd
      swarmctl tasks try mine.py --answer 12 --answer "about 12" --json
    """
    from swarmctl.tasks.answering import try_task
    from swarmctl.terminal.prompter import Prompter

    prompter = Prompter(yes=yes, silent=no_input or json)
    try_task(task, tuple(param or ()), tuple(answer or ()), seed=seed, as_json=json, prompter=prompter)
