"""What an error advises, as a change of the very command that failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from hivemind_exp.errors import NodeError
from swarmctl.nodes import directory as nodes
from swarmctl.run.outcome import completed
from swarmctl.settings.last_run import rerun
from swarmctl.settings.resolve import Resolved


def retry_with(resolved: Resolved) -> nodes.Retry:
    """Return what makes the command that does the same with another node."""
    return lambda name: rerun(resolved, node=name)


@contextmanager
def retry_hint(resolved: Resolved) -> Iterator[None]:
    """Make what an error advises a change of this very command."""
    try:
        yield
    except NodeError as error:
        error.next = completed(error.next, rerun(resolved)) if error.next else None
        raise
