"""Keep a checkpoint while a command uses it: a running node deletes all but its newest ones (``checkpoint.keep``)."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from hivemind_exp.hard_links import link_tree
from hivemind_exp.node_files import NodeFiles
from swarmctl.storage import node_lock as locks
from swarmctl.trained.target import TrainedNode

_PREFIX = ".in-use-"


@contextmanager
def kept(node: TrainedNode) -> Iterator[TrainedNode]:
    """Yield the node with links to its checkpoint's files, which are deleted when the block ends.

    Where no links can be made, as in a directory of another user, it yields the node unchanged.
    """
    with ExitStack() as stack:
        yield _linked(node, stack)


def _linked(node: TrainedNode, stack: ExitStack) -> TrainedNode:
    if node.checkpoint is None:
        return node
    _remove_leftovers(node.files)
    with suppress(OSError):
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(dir=node.files.root, prefix=_PREFIX, ignore_cleanup_errors=True)
        )
        stack.enter_context(_locked(directory))
        path = Path(directory) / node.checkpoint.path.name
        link_tree(node.checkpoint.path, path)
        return replace(node, checkpoint=replace(node.checkpoint, path=path))
    return node


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Lock a directory, so that no other command removes it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        locks.acquire(descriptor)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(files: NodeFiles) -> None:
    """Remove the links of commands that were killed."""
    for directory in files.root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if locks.acquire(descriptor):
                    shutil.rmtree(directory)
            finally:
                os.close(descriptor)
