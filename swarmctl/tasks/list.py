"""``swarmctl tasks list``: every task with a one-line description."""

from collections.abc import Iterator
from typing import NamedTuple

from hivemind_exp.foreign_text import visible
from hivemind_exp.tasks import environments
from hivemind_exp.tasks.descriptions import DESCRIPTIONS
from hivemind_exp.tasks.installed import distribution, installed_tasks, summary
from hivemind_exp.tasks.registry import PRESETS, QUESTION_SETS, names
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.table import print_table


class ListedTask(NamedTuple):
    """One row of the list."""

    name: str
    kind: str
    """``generator``, ``questions``, ``preset``, ``package`` or ``environment``."""
    description: str
    package: str | None
    """Names and versions of the packages that have the task; None for a built-in one."""


def list_tasks(*, as_json: bool) -> None:
    """Print every task that can be named."""
    tasks = list(listed_tasks())
    if as_json:
        print_json(tasks=[task._asdict() for task in tasks])
        return
    print_table([(task.name, task.description) for task in tasks], ("task", "description"))


def listed_tasks() -> Iterator[ListedTask]:
    """Yield the built-in tasks, those of packages, and the installed environments, each by name.

    A built-in name hides a package's.
    """
    for name in names():
        kind = "preset" if name in PRESETS else "questions" if name in QUESTION_SETS else "generator"
        yield ListedTask(name, kind, DESCRIPTIONS.get(name, ""), None)
    for name, entry in sorted(installed_tasks().items()):
        if name not in DESCRIPTIONS:
            package = visible(distribution(entry))
            yield ListedTask(visible(name), "package", visible(summary(entry)) or f"A task of {package}", package)
    for task, versions, about in environments.listed():
        package = visible(environments.described(versions))
        yield ListedTask(visible(task), "environment", visible(about) or f"An environment of {package}", package)
