"""A node's checkpoint, for commands that use one."""

import shlex
from collections.abc import Sequence

from hivemind_exp.errors import CheckpointError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.node_id import node_id
from hivemind_exp.trainer.checkpoints import Checkpoint, check_owner, find


def checkpoint_of(files: NodeFiles, step: int | None, newest: Sequence[str]) -> Checkpoint | None:
    """Return the checkpoint of a step, or the newest intact one; None if the node has none yet.

    ``newest``: the command that uses the newest one instead, for the error message.

    Raises CheckpointError if the one of this step is missing or damaged, or if all are damaged, and NodeConflict if it
    is another node's.
    """
    try:
        found = find(files.checkpoints, step)
    except CheckpointError as error:
        name = files.root.name
        # The next run sets damaged checkpoints aside, and repeats the steps from the journal if it still has them.
        next_ = ["swarmctl", "run", "--node", name] if step is None else newest
        raise CheckpointError(f"node {name}: {error.message}", next=shlex.join(next_)) from error
    if found is not None:
        check_owner(found.path, node_id(files))
    return found
