"""A node's checkpoint, for commands that use one."""

import shlex

from hivemind_exp.errors import CheckpointError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import Checkpoint, find


def checkpoint_of(files: NodeFiles, step: int | None) -> Checkpoint | None:
    """Return the checkpoint of a step, or the newest intact one; None if the node has none yet.

    Raises CheckpointError if the one of this step is missing, or if what would be returned is damaged.
    """
    try:
        return find(files.checkpoints, step)
    except CheckpointError as error:
        listing = shlex.join(["ls", str(files.checkpoints)])
        raise CheckpointError(f"node {files.root.name}: {error.message}", next=listing) from error
