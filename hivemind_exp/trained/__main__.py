"""The process that uses a trained model: reads one line of JSON, and writes events as JSON lines.

The line is ``{"mode": "sample" | …, "config": {…}, "node_dir": "…", "checkpoint": {…} | null, …}``, with what the
mode needs. Without a checkpoint (its path, step and round), the model is the one before training. SIGINT ends what is
being generated. The process ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError, OutOfMemory
from hivemind_exp.models.out_of_memory import what_ran_out
from hivemind_exp.processes.imports import leave_out, uncollected
from hivemind_exp.processes.kernel import hide_memory
from hivemind_exp.secrets import Secrets, receive
from hivemind_exp.stop import StopRequested
from hivemind_exp.trained.link import Link


def main() -> int:
    """Do what the line asks. Returns the exit status: 0 done or stopped, 1 failed."""
    hide_memory()
    order = json.loads(sys.stdin.buffer.readline())
    secrets = receive(order.get("secrets_fd"))
    link = Link()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: link.stop.set())
    link.listen()
    try:
        _run(order, link, secrets)
    except StopRequested:
        link.emit("stopped")
    except Exception as error:
        known = error if isinstance(error, NodeError) else _out_of_memory(error)
        if known is None:
            raise
        link.emit("error", code=known.code, message=known.message, next=known.next)
        return 1
    link.emit("end")
    return 0


def _run(order: dict[str, Any], link: Link, secrets: Secrets) -> None:
    link.phase("loading PyTorch")
    leave_out("trackio", "wandb")
    with uncollected():
        from hivemind_exp.config import Config
        from hivemind_exp.models.device import pin_device

    config = Config.model_validate(order["config"])
    model = config.model.model_copy(update={"device": pin_device(config.model.device)})
    config = config.model_copy(update={"model": model})
    with uncollected():
        from hivemind_exp.models.lean_imports import without_bitsandbytes, without_scipy
        from hivemind_exp.node_files import NodeFiles

        without_scipy()
        without_bitsandbytes(config)
        from hivemind_exp.trained.answering import chat, sample
        from hivemind_exp.trained.evaluation import evaluate
        from hivemind_exp.trained.loading import Job, with_charter
        from hivemind_exp.trained.merging import merge
        from hivemind_exp.trained.replaying import replay
        from hivemind_exp.trainer.checkpoints import Checkpoint

    files, at = NodeFiles(Path(order["node_dir"])), order["checkpoint"]
    checkpoint = None if at is None else Checkpoint(Path(at["path"]), at["step"], at["round"])
    job = Job(with_charter(config, files), files, checkpoint, order, link, secrets)
    {"sample": sample, "chat": chat, "eval": evaluate, "merge": merge, "replay": replay}[order["mode"]](job)


def _out_of_memory(error: Exception) -> OutOfMemory | None:
    """Return the error for people if memory has run out; None for any other error."""
    if what_ran_out(error) is None:
        return None
    return OutOfMemory("not enough memory for the model; a running node may be using it. Try it with --device cpu")


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # library threads must not keep the process alive
