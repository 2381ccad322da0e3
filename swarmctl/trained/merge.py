"""Merge a node's adapters into their base model, in a process of its own."""

from pathlib import Path

from swarmctl.trained.process import model_process
from swarmctl.trained.target import TrainedNode


def merge(node: TrainedNode, directory: Path, *, quiet: bool) -> None:
    """Write the merged model and its tokenizer to the empty ``directory``. Raises the NodeError that is reported."""
    with model_process("merge", node, quiet=quiet, directory=str(directory)) as process:
        for _ in process.events():
            pass
