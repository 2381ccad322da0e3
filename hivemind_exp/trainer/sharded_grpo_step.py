"""Optimizer steps of several processes that divide weights, gradients and optimizer state among them (FSDP2).

The rows of a step and the completions of a batch are shared as by processes that each hold everything. What needs whole
weights (generation, scores, checkpoints) gathers them for a while.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from hivemind_exp.errors import OutOfMemory
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.out_of_memory import what_ran_out
from hivemind_exp.parallel.group import ProcessGroup, wait_quietly
from hivemind_exp.parallel.sharding import Sharding, WholeModel, gathered, gathered_weights
from hivemind_exp.parallel.team import UPDATE
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.checkpoints import STATE
from hivemind_exp.trainer.gradient_meter import GradientMeter
from hivemind_exp.trainer.grpo_step import Shrunk, SourceGRPOTrainer
from hivemind_exp.trainer.micro_batches import row_length
from hivemind_exp.trainer.optimizer_state import load_state
from hivemind_exp.trainer.step_measures import StepMeasures, StepResult


class ShardedGRPOTrainer(SourceGRPOTrainer):
    """A step trainer with a part of the weights. It takes steps once it leads the other processes, or follows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As ``SourceGRPOTrainer``. The model stays on the CPU until it is divided."""
        super().__init__(*args, **kwargs)
        device, self._dtype = str(self.accelerator.device), getattr(torch, kwargs["dtype"])
        self._whole = WholeModel(self.model, device, self._dtype)
        model: Any = self._whole.model
        add_fused_lm_head(model.get_base_model() if hasattr(model, "peft_config") else model, self.temperature)
        self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # for its autocast
        self._sharding: Sharding | None = None
        self._checkpoint: Path | None = None
        """What to load once the optimizer exists."""

    @property
    def generator(self) -> PreTrainedModel:
        """A plain model, which has weights only within ``whole``."""
        found: PreTrainedModel = self._whole.model
        return found

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Give every process the weights of the whole model inside the block, in 16 bits if it computes in 16 bits."""
        assert self.team is not None
        self.team.ask("gather", None)
        with self._together("it gathered the whole model's weights (train.shard)", "swarmctl doctor fit"):
            self.gather()
        self.team.answers()
        try:
            yield
        finally:
            self.release()
        self.team.ask("release", None)
        self.team.answers()

    def gather(self) -> None:
        """Fill ``generator``. All processes call this."""
        self._whole.fill(self.policy)

    def release(self) -> None:
        """Free the weights of ``generator``."""
        self._whole.empty()

    def step(
        self,
        manifest: Manifest,
        should_stop: Callable[[], bool] = lambda: False,
        shrunk: Shrunk = lambda *_: None,
    ) -> StepResult:
        """Take one optimizer step, as all processes do together.

        Raises ``OutOfMemory`` when memory runs out: the others wait for the process in which it did, so it cannot
        repeat the step. ``shrunk`` hears of the smaller micro-batch with which the node repeats it after a restart.
        """
        try:
            return super().step(manifest, should_stop, shrunk)
        except OutOfMemory:
            shrunk(replace(manifest, micro_batch=max(1, manifest.micro_batch // 2)), "")
            raise

    def log_probabilities(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Return log π of each completion's tokens under the current weights, at the sampling temperature."""
        with self.whole():
            return super().log_probabilities(rows)

    def save(self, directory: Path, check: Callable[[], None] = lambda: None) -> None:
        """Write the same files as a trainer that holds everything."""
        assert self.team is not None
        self.team.ask("save", None)
        with self._together("it wrote a checkpoint (train.shard)", "swarmctl doctor fit"):
            weights, state = self.gather_state(keep=True)
        self.team.answers()
        self._write(directory, state, check, state_dict=weights)

    def gather_state(self, *, keep: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the trained weights and the optimizer's state, whole and on the CPU. All processes call this.

        ``keep``: otherwise this process only sends its parts.
        """
        frozen = hasattr(self.policy, "peft_config")
        weights = gathered_weights(self.policy, trained=frozen, keep=keep)
        return weights, gathered(self.optimizer.state_dict(), keep=keep)

    def load(self, directory: Path) -> None:
        """Restore what ``save`` wrote, except the model; as soon as the optimizer exists."""
        if self._sharding is None:
            self._checkpoint = directory
            return
        divided = partial(self._sharding.divided_state, optimizer=self.optimizer)
        load_state(directory / STATE, self.optimizer, self.lr_scheduler, divided)

    def _divided(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        assert self._sharding is not None
        return {name: self._sharding.part(weight) for name, weight in weights.items()}

    def _begin(self, group: ProcessGroup, check: Callable[[], None]) -> None:
        """Take over the main process's weights, divide them, and create the optimizer of this process's part."""
        super()._begin(group, check)
        self._sharding = Sharding(str(self.accelerator.device), self._dtype)
        with self._together("it divided the model (train.shard)", "swarmctl doctor fit"):
            self._sharding.divide(self.policy)
            if self._reference is not None:
                self._sharding.divide(self._reference, trained=False)
        self._make_optimizer()
        if self._checkpoint is not None:
            self.load(self._checkpoint)

    def _shared_gradient(self, manifest: Manifest, should_stop: Callable[[], bool]) -> tuple[StepResult, None]:
        team = self.team
        assert team is not None
        size = manifest.micro_batch
        doing = f"it took a step with {size} rows at a time"
        smaller = f"swarmctl run --node {self._node} --set train.micro_batch={max(1, size // 2)}"
        team.ask("gradient", [manifest.pack(), bool(self.policy.is_activation_checkpointing)])
        with self._together(doing, smaller):
            own = self.accumulate(manifest, should_stop)
        answers = team.answers()
        team.ask(UPDATE, None)
        measured = StepMeasures.join([own, *(StepMeasures.unpack(answer["measured"]) for answer in answers)])
        with self._together(doing, smaller):
            return self.finish_gradient(manifest, measured), None

    @contextmanager
    def _together(self, doing: str, remedy: str) -> Iterator[None]:
        """Wait inside the block for other processes in collectives, and end if one of them does.

        Raises ``OutOfMemory`` with the command ``remedy`` if memory runs out while ``doing``.
        """
        assert self.group is not None
        try:
            if self.team is None:
                with self.group.guard(wait_quietly):
                    yield
            else:
                with self.group.guard(self.team.check, self.team.has_lost_one):
                    yield
        except Exception as error:
            ran_out = what_ran_out(error)
            if ran_out is None:
                raise
            raise OutOfMemory(f"{ran_out} ran out of memory while {doing}", next=remedy) from None

    def _batches(self, part: list[TrainingRow], micro_batch: int) -> list[list[TrainingRow]]:
        """Return micro-batches, as many as the process with the most rows has: the last ones may be empty."""
        assert self.group is not None
        found = super()._batches(part, micro_batch)
        most = -(-len(part) // self.group.processes)
        return found + [[] for _ in range(-(-most // micro_batch) - len(found))]

    def _inputs(self, rows: list[TrainingRow], part: list[TrainingRow], scales: Mapping[Kind, float]) -> dict[str, Any]:
        """Return the inputs of a micro-batch. An empty one computes another process's shortest row, times 0."""
        if rows:
            return super()._inputs(rows, part, scales)
        nothing = super()._inputs([min(part, key=row_length)], part, dict.fromkeys(scales, 0.0))
        return nothing | {"counted": False}

    def _measure_kind(self, meter: GradientMeter) -> Tensor:
        return meter.added_norm()  # of this process's part of the sum

    def _add_up(self, group: ProcessGroup, check: Callable[[], None]) -> None:
        """Add up the parts of each kind's norm. The backward passes have added up the gradients."""
        squares = {kind: norm.square() for kind, norm in self._kind_gradients.items()}
        group.add_up(squares.values(), check)
        self._kind_gradients = {kind: square.sqrt() for kind, square in squares.items()}

    def _clip(self) -> float:
        norm = self.accelerator.clip_grad_norm_(self.model_wrapped.parameters(), self.args.max_grad_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
