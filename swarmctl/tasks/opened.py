"""A task by its name or path, with its workers running."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hivemind_exp.config import TaskConfig, task_tables
from hivemind_exp.errors import TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import check_tasks, is_own_code, title
from swarmctl.errors import UsageError
from swarmctl.packages.environments import install_environments
from swarmctl.settings.command_line import inline
from swarmctl.settings.schema import parse
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

LOADING = "loading the task"


@dataclass(frozen=True, slots=True)
class OpenedTask:
    """A task whose questions can be asked and answered."""

    config: TaskConfig
    title: str
    mixture: Mixture

    def questions(self, count: int, first: int = 0) -> list[Question]:
        """Return ``count`` training questions from position ``first`` on."""
        return self.mixture.questions("train", 0, first + count)[first:]


@contextmanager
def opened_task(
    name: str, params: Sequence[str], seed: int, prompter: Prompter, retry: str, *, verifiers: int = 1
) -> Iterator[OpenedTask]:
    """Open a task: a name, a preset or a path. An environment is installed first.

    ``retry``: the command that agrees to that in advance. ``verifiers``: the number of verifier processes; 0 if nothing
    is scored. Raises UsageError for params of a wrong form, and TaskError.
    """
    config = task_config(name, params)
    install_environments([config], prompter, retry)
    tried_below = is_own_code(config.name) and (config.path is None or Path(config.path).is_file())
    say = Writer(sys.stderr)
    if not tried_below:  # a user's code is tried by the workers that it needs anyway
        unused: list[str] = []
        with waiting(say, LOADING):
            _check(config, unused)
        for line in unused:
            say(line)
    charter = f"swarmctl tasks {seed}".encode()
    with closing(
        Mixture([config], charter=charter, secret=b"", heldout=0, partial_credit=True, verifiers=verifiers)
    ) as mixture:
        with waiting(say, LOADING):
            printed = mixture.printed()
        if printed:
            say(f"{title(config)} printed: {foreign(printed, 2000)}")
        yield OpenedTask(config, title(config), mixture)


def _check(config: TaskConfig, unused: list[str]) -> None:
    """Check a task, and append a line for each file of which a part is not used.

    Raises TaskError whose suggestion is a look at a task, and no run.
    """
    try:
        check_tasks([config], unused.append)
    except TaskError as error:
        run = "swarmctl run --task "
        if error.next is None or not error.next.startswith(run):
            raise
        raise TaskError(error.message, next=f"swarmctl tasks show {error.next.removeprefix(run)}") from error


def task_config(name: str, params: Sequence[str]) -> TaskConfig:
    """Return the setting for one task. Raises UsageError if there are several, or a parameter has a wrong form."""
    try:
        tables = task_tables(name)
        if len(tables) != 1:
            raise UsageError("name one task", next="swarmctl tasks list")
        return TaskConfig.model_validate({**tables[0], "params": dict(map(_param, params))})
    except ValidationError as error:
        raise UsageError(f"invalid task {name!r} or parameter", next="swarmctl tasks list") from error


def _param(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"invalid --param {text!r}. Use NAME=VALUE", next="swarmctl tasks show --help")
    return name.strip(), parse(value, ())


def again(command: str, name: str, params: Sequence[str], *more: str) -> str:
    """Return the ``swarmctl tasks`` command for the same task."""
    return shlex.join(["swarmctl", "tasks", command, name, *(f"--param={each}" for each in params), *more])


def run_hint(task: OpenedTask, params: Sequence[str]) -> str:
    """Return the command that trains on the task."""
    if not params:
        return f"swarmctl run --task {shlex.quote(task.config.path or task.config.name)}"
    table = {"name": task.config.name, "path": task.config.path, "params": task.config.params}
    fields = ", ".join(f"{key} = {inline(value)}" for key, value in table.items() if value is not None)
    return shlex.join(["swarmctl", "run", "--set", f"tasks=[{{{fields}}}]"])
