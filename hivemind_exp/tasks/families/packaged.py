"""A task from an installed package (``hivemind_exp.tasks.installed``), loaded in the sandbox like a task file."""

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.own_code import OwnCodeTask, try_out
from hivemind_exp.tasks.installed import distribution, installed_tasks

OWN_CODE = True


def check(spec: TaskSpec) -> None:
    """Load the package in workers and try it with a few questions. Raises ``TaskError``."""
    if spec.path is not None:
        raise TaskError(f"task {spec.name!r} accepts params, but no path", next=f"swarmctl run --task {spec.name}")
    try_out(spec)


def build(spec: TaskSpec) -> OwnCodeTask:
    """Return the task. The package is not imported before ``prepare``."""
    entry = installed_tasks()[spec.name]
    return OwnCodeTask(spec, entry.load, None, distribution(entry))
