"""Pin a checkpoint while it is being used: a running node deletes its old ones, perhaps before they are loaded."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from hivemind_exp.hard_links import link_tree
from hivemind_exp.trainer.checkpoints import MODEL, STATE
from swarmctl.storage.staging import staged
from swarmctl.trained.target import TrainedNode


@contextmanager
def pinned_checkpoint(node: TrainedNode, *, whole: bool = False) -> Iterator[TrainedNode]:
    """Yield the node with a checkpoint that stays until the end of the block, made of links to its files.

    ``whole``: with the state of the optimizer, not only the model.
    """
    if node.checkpoint is None:
        yield node
        return
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(staged(node.files.root / "reading"))
            for name in (MODEL, *([STATE] if whole else [])):
                link_tree(node.checkpoint.path / name, directory / name)
        except OSError:  # such as a read-only directory, in which no node deletes anything
            yield node
        else:
            yield replace(node, checkpoint=replace(node.checkpoint, path=directory))
