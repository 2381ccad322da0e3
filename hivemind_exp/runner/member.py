"""A process that trains a node together with its main process: it computes what that one asks for.

``python -m hivemind_exp.runner.member PID`` with the main process's id. Commands come through standard input, answers
go through standard output. The process keeps no files and has no keys, and dies with the main process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_exp.errors import NodeError, OutOfMemory
from hivemind_exp.models.out_of_memory import what_ran_out, within_memory
from hivemind_exp.parallel.team import UPDATE
from hivemind_exp.processes import sandbox
from hivemind_exp.processes.imports import leave_out, uncollected
from hivemind_exp.processes.kernel import hide_memory
from hivemind_exp.processes.messages import messages, send, take_pipes
from hivemind_exp.runner.loading_beat import beat_while_loading
from hivemind_exp.stop import BeatingFlag

if TYPE_CHECKING:
    from hivemind_exp.parallel.group import ProcessGroup


def main(parent: int) -> int:
    """Serve until the main process ends the pipe; return the exit status."""
    sandbox.die_with_parent(parent)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    hide_memory()
    source, sink = take_pipes()
    asked = messages(source)
    first = next(asked, None)
    if first is None:
        return 0
    # Both processes show life in the same file, but never while one waits for the other.
    stop = BeatingFlag(Path(first["node_dir"]) / "lock")
    threading.Thread(target=beat_while_loading, args=(stop.beat,), daemon=True).start()
    leave_out("trackio", "wandb")
    with uncollected():
        member = TeamMember(first, stop)
    for command, argument in asked:
        with member.guard():
            answer = _answered(partial(member.commands[command], argument))
        send(sink, answer)
        if "error" in answer and member.divided:
            return 1  # the other processes wait for this one in a collective until it ends
    return 0


def _answered(work: Callable[[], Any]) -> dict[str, Any]:
    """Return what ``work`` returns, or the error that it raises, as a message."""
    try:
        return {"value": work()}
    except NodeError as known:
        error = known
    except Exception as unknown:
        ran_out = what_ran_out(unknown)
        if ran_out is None:
            raise
        error = OutOfMemory(f"{ran_out} ran out of memory in another process of this node", next="swarmctl doctor fit")
    return {"error": {"code": error.code, "message": error.message, "next": error.next}}


class TeamMember:
    """The model and the optimizer of this process."""

    def __init__(self, first: dict[str, Any], stop: BeatingFlag) -> None:
        """Import what is needed, while the main process reads its files. ``first``: the message of ``Team``."""
        from hivemind_exp.config import Config
        from hivemind_exp.models.device import Compute, use_threads
        from hivemind_exp.models.lean_imports import without_bitsandbytes, without_scipy
        from hivemind_exp.models.model_location import TINY
        from hivemind_exp.node_files import NodeFiles

        self._config = Config.model_validate(first["config"])
        if self._config.model.name == TINY and self._config.model.lora is None:
            leave_out("peft")
        without_scipy()
        without_bitsandbytes(self._config)
        import hivemind_exp.runner.build_node  # noqa: F401 - imported early, because it takes seconds

        use_threads(self._config.model, self._config.train.processes)
        self._compute = Compute(first["device"], first["dtype"], None)
        self._files, self._stop = NodeFiles(Path(first["node_dir"])), stop
        self._meeting, self._place = Path(first["meeting"]), int(first["place"])
        self.divided = self._config.train.shard
        self._group: ProcessGroup | None = None
        self.commands: dict[str, Callable[[Any], Any]] = {
            "load": self._load,
            "join": self._join,
            "gradient": self._gradient,
            UPDATE: self._update,
            "digest": self._digest,
            "restore": lambda directory: self._trainer.restore(Path(directory)),
            "generate": self._generate,
            "gather": lambda _: self._trainer.gather(),
            "release": lambda _: self._trainer.release(),
            "save": lambda _: self._send_state(),
            "leave": lambda _: self._leave(),
        }

    def guard(self) -> AbstractContextManager[None]:
        """Wait a moment if a collective fails: the main process ends this one, and reports who has ended before."""
        from hivemind_exp.parallel.group import wait_quietly

        return self._group.guard(wait_quietly) if self.divided and self._group is not None else nullcontext()

    def _load(self, checkpoint: list[Any] | None) -> None:
        """Build the model and the optimizer as the main process has, which has finished downloads and warm-up."""
        from hivemind_exp.events import discard
        from hivemind_exp.models.loading import load_tokenizer
        from hivemind_exp.runner.build_node import ModelBuilder
        from hivemind_exp.secrets import Secrets
        from hivemind_exp.sources.local import LocalSource
        from hivemind_exp.trainer.checkpoints import Checkpoint

        config = self._config
        tokenizer = load_tokenizer(config.model, None)
        builder = ModelBuilder(config, self._files, discard, self._stop, Secrets(), self._compute)
        known = None if checkpoint is None else Checkpoint(Path(checkpoint[0]), *checkpoint[1:])
        self._trainer = builder.step_trainer(tokenizer, None, known)
        self._source = LocalSource(
            self._trainer.generator, tokenizer, config.generation, self._stop, _dtype=self._compute.dtype
        )

    def _join(self, _: None) -> None:
        from hivemind_exp.parallel.group import ProcessGroup

        processes = self._config.train.processes
        self._group = ProcessGroup(self._meeting, self._place, processes, self._compute.device)
        self._trainer.follow(self._group)

    def _leave(self) -> None:
        assert self._group is not None
        self._group.leave(together=True)

    def _gradient(self, argument: list[Any]) -> dict[str, Any]:
        from hivemind_exp.journal.records import Manifest

        packed, recompute = argument
        self._manifest = Manifest.unpack(packed)
        if recompute and not self._trainer.policy.is_activation_checkpointing:
            self._trainer.policy.activation_checkpointing_enable()
        work = partial(self._trainer.accumulate, self._manifest, self._stop.is_set)
        measured, ran_out = (work(), None) if self.divided else within_memory(work)
        self._measured = measured
        return {"measured": None if measured is None else measured.pack(), "ran_out": ran_out}

    def _send_state(self) -> None:
        self._trainer.gather_state(keep=False)

    def _digest(self, _: None) -> int:
        from hivemind_exp.trainer.shared_steps import digest

        return digest(self._trainer.trainable())

    def _update(self, _: None) -> None:
        assert self._measured is not None
        # Only the gradient's norm matters here, which is that of the sum.
        norm = self._trainer.finish_gradient(self._manifest, self._measured).grad_norm
        self._trainer.take(self._manifest, norm)
        self._trainer.free_gradients()

    def _generate(self, argument: list[Any]) -> dict[str, Any]:
        from hivemind_exp.sources.local import SharedBatch

        prompts, rooms, seed, size = argument
        batch = SharedBatch(prompts, rooms, seed, size, self._config.train.processes)
        rows, ran_out = within_memory(partial(self._source.share, batch, self._place))
        return {"rows": rows, "ran_out": ran_out}


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stdout.flush()
    # Library threads must not keep a finished process alive.
    os._exit(status)
