"""The tasks of installed packages: entry points of the group ``swarmctl.tasks``.

An entry point names a module with ``questions`` and ``score``, the same as a task file's::

    [project.entry-points."swarmctl.tasks"]
    rhymes = "my_package.rhymes"

Only the packages' metadata is read here. Their code is imported in the sandbox.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from hivemind_exp.config import ENVIRONMENT
from hivemind_exp.tasks.environments import Installation

GROUP = "swarmctl.tasks"


@cache
def installed_tasks() -> dict[str, EntryPoint]:
    """Return the entry points by name. Of several with the same name, the first one on the search path is used."""
    found: dict[str, EntryPoint] = {}
    for each in entry_points(group=GROUP):
        found.setdefault(each.name, each)
    return found


def distribution(entry: EntryPoint) -> str:
    """Return the name and version of the package that has the task."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""


def origin(task: str) -> str:
    """Return the name and version of the package that a task comes from; for an environment, also of its library."""
    if task.startswith(ENVIRONMENT):
        return Installation.of(task).origin
    return distribution(installed_tasks()[task])


def summary(entry: EntryPoint) -> str:
    """Return the package's one-line description, or the empty string. It is untrusted text."""
    return "" if entry.dist is None else str(entry.dist.metadata.json.get("summary", ""))
