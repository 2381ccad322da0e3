"""TRL's GRPO trainer, fed with finished rollouts from any source. One optimizer serves the node's whole life.

TRL generates, scores and weighs completions inside its step. Here the step takes its rows from the manifest. TRL still
provides the model's preparation, precision, the memory-saving log-probabilities, the backward pass, the optimizer and
the logging backends. ``HOOKS`` lists the private members of TRL in use, which tests guard. If memory runs out, the
gradient is computed again with less memory (``MicroBatches``).
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl.trainer.utils import add_fused_lm_head

from hivemind_exp.config import Config
from hivemind_exp.errors import OutOfMemory
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.fused_kernels import fuse
from hivemind_exp.models.out_of_memory import within_memory
from hivemind_exp.models.quantized import copy_adapters, restore_adapters
from hivemind_exp.parallel.group import ProcessGroup, wait_quietly
from hivemind_exp.parallel.shares import deal
from hivemind_exp.parallel.team import Team
from hivemind_exp.round_progress import WorkProgress
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.checkpoints import MODEL, STATE
from hivemind_exp.trainer.gradient_meter import GradientMeter
from hivemind_exp.trainer.micro_batches import MicroBatches, Say, row_length, split
from hivemind_exp.trainer.optimizer_state import load_state, save_state
from hivemind_exp.trainer.report_places import place_reports
from hivemind_exp.trainer.row_loss import RowLossTrainer
from hivemind_exp.trainer.shared_steps import COMPARE_EVERY, compare_weights, measure_together
from hivemind_exp.trainer.step_measures import Measuring, StepMeasures, StepResult
from hivemind_exp.trainer.token_rows import token_scales
from hivemind_exp.trainer.trl_arguments import no_reward, trl_arguments

_SUPERVISED = frozenset({Kind.TEACHER, Kind.HINTED})
"""Kinds of verified text that is not a sample of the policy. A step on nothing else is supervised learning."""
HOOKS = ("_prepare_inputs", "_compute_loss", "_tokenizer", "_metrics")
"""Private members of TRL's trainer that this module overrides or uses, besides ``add_fused_lm_head``."""
Shrunk = Callable[[Manifest, str], None]
"""Called before a step is repeated: with its manifest and its new micro-batch, and a sentence about what changed."""


class StepAbandoned(Exception):
    """A stop was requested before the optimizer step. The weights are unchanged."""


class SourceGRPOTrainer(RowLossTrainer):
    """Takes the optimizer steps that manifests describe. Build one per node, for its whole life."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        output: Path,
        *,
        device: str,
        dtype: str,
        reference: PreTrainedModel | None = None,
        peft_config: Any = None,
    ) -> None:
        """Wrap ``model`` (moved to ``device``) with optimizer and schedule.

        ``reference`` is the frozen model for the KL penalty. With adapters, the model without its adapter is used.
        """
        place_reports(output)
        adapters = copy_adapters(model) if config.model.load_in_4bit else {}
        if device.startswith("cuda"):
            # cuDNN's backward pass gives NaN for fully masked queries, as in prompts padded on the left (torch 2.11,
            # cuDNN 9.19: bfloat16, widths divisible by 64). The other kernels give 0.
            torch.backends.cuda.enable_cudnn_sdp(False)
        fused = not config.train.shard and fuse(model, config.model, device)
        super().__init__(
            model=model,
            reward_funcs=[no_reward],
            args=trl_arguments(config, output, device, dtype),
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=tokenizer,
            peft_config=peft_config,
        )
        self.remove_callback(PrinterCallback)
        if config.model.load_in_4bit:
            restore_adapters(self.model, adapters)
        self._prepare_losses(config.train, reference)
        self._micro_batches = MicroBatches(self.policy, config, device, half=dtype != "float32", fused=fused)
        placed = not config.train.shard  # a model that is divided later may not fit as a whole
        if reference is not None:
            reference.requires_grad_(False)
            if fused:
                fuse(reference, config.model, device)
            add_fused_lm_head(reference, temperature=self.temperature)
            reference.eval()
            if placed:
                reference.to(self.accelerator.device)
        self.model_wrapped = self.accelerator.prepare_model(self.model, device_placement=placed)
        if placed:
            self._make_optimizer()
        self._kind_gradients: dict[Kind, Tensor] = {}
        """Within a step of several kinds, by kind: gradient norms or, with several processes, samples."""
        self.team: Team | None = None
        """The other processes that take part in each step. None: this one takes it alone, or on their command."""
        self.group: ProcessGroup | None = None
        """What adds up the gradients of all processes. None: this one computes a step's whole gradient."""
        self.work = WorkProgress()
        """Reports how many rows of a step are done."""
        self._node = config.node.name
        self._teacher_factor = config.teacher_learning_rate / config.train.learning_rate
        self.callback_handler.on_train_begin(self.args, self.state, self.control)

    def _make_optimizer(self) -> None:
        # The number of steps is unknown. The schedule does not use it, because the rate is constant after the warm-up.
        self.create_optimizer_and_scheduler(num_training_steps=1)
        self.optimizer: torch.optim.Optimizer = self.accelerator.prepare_optimizer(self.optimizer)

    def lead(self, team: Team) -> None:
        """Train together with the other processes, which take over this one's weights."""
        group, self.team = team.join(), team
        self._begin(group, team.check)
        team.answers()

    def follow(self, group: ProcessGroup) -> None:
        """Train on the command of the main process, with its weights."""
        self._begin(group, wait_quietly)

    def _begin(self, group: ProcessGroup, check: Callable[[], None]) -> None:
        self.group = group
        group.spread(self.trainable(), check)

    def trainable(self) -> list[Tensor]:
        """Return the weights that are trained."""
        return [parameter for parameter in self.model_wrapped.parameters() if parameter.requires_grad]

    @property
    def policy(self) -> PreTrainedModel:
        """The model without the training step's wrappers."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def generator(self) -> PreTrainedModel:
        """The model that generates and scores, within ``whole``."""
        return self.policy

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Give ``generator`` its weights inside the block. It always has them if they are not divided."""
        yield

    def micro_batch(self, rows: Sequence[TrainingRow], say: Say = lambda _: None) -> int:
        """Return how many of a step's rows should go through the model at a time. ``say``: hears what changes."""
        return self._micro_batches.choose(rows, new_optimizer=not self.optimizer.state, say=say)

    def step(
        self,
        manifest: Manifest,
        should_stop: Callable[[], bool] = lambda: False,
        shrunk: Shrunk = lambda *_: None,
    ) -> StepResult:
        """Take one optimizer step.

        Rows that teach nothing add nothing to the loss or gradient, so they skip the forward pass. Their tokens still
        count in the denominator. A step with nothing but a teacher's or hinted rows is supervised learning, at a rate
        of its own. A row from others that does not fit into memory even alone is left out.
        Raises ``StepAbandoned`` if ``should_stop`` returned true before the optimizer step, and ``OutOfMemory`` if
        memory runs out even for one row of the node's own at a time. The weights are unchanged then.
        """
        batches = self._micro_batches
        fitting, what = batches.within_longest(manifest)
        fitting = replace(fitting, micro_batch=batches.allowed(manifest.micro_batch))
        if fitting != manifest:
            manifest = fitting
            shrunk(manifest, what)
        while True:
            result, ran_out = self._shared_gradient(manifest, should_stop)
            if result is not None:
                return replace(result, learning_rate=self.take(manifest, result.grad_norm))
            self.optimizer.zero_grad()
            try:
                size, what = batches.shrink(manifest.micro_batch, str(ran_out))
                manifest = replace(manifest, micro_batch=size)
            except OutOfMemory:
                manifest, what = batches.without_longest(manifest, str(ran_out))
            shrunk(manifest, what)

    def _shared_gradient(
        self, manifest: Manifest, should_stop: Callable[[], bool]
    ) -> tuple[StepResult, None] | tuple[None, str]:
        """Compute the gradient, with the other processes if there are any. Returns what ran out of memory instead."""
        if self.team is None:
            return within_memory(partial(self._gradient, manifest, should_stop))
        if manifest.step % COMPARE_EVERY == 0:
            compare_weights(self.team, self.trainable())
        own, recompute = partial(self.accumulate, manifest, should_stop), bool(self.policy.is_activation_checkpointing)
        measured, ran_out = measure_together(self.team, manifest, own, recompute=recompute)
        return (None, str(ran_out)) if measured is None else (self.finish_gradient(manifest, measured), None)

    def _gradient(self, manifest: Manifest, should_stop: Callable[[], bool]) -> StepResult:
        """Compute the clipped gradient of a step, and return what it measured. May be repeated."""
        return self.finish_gradient(manifest, self.accumulate(manifest, should_stop))

    def accumulate(self, manifest: Manifest, should_stop: Callable[[], bool]) -> StepMeasures:
        """Compute the gradient of this process's rows of a step, and return what was measured. May be repeated."""
        place, processes = (0, 1) if self.group is None else (self.group.place, self.group.processes)
        set_seed(manifest.seed if place == 0 else derive_seed(manifest.seed, "process", place))
        self._measuring, self._kind_gradients = Measuring(), {}
        self._floor, self._beside_answer = manifest.floor, manifest.tokens is not None
        parts = self._parts(manifest)
        scales = token_scales(manifest, self._losses, self.train_config.off_policy_weight)
        batched = [self._batches(part, manifest.micro_batch) for part in parts]
        self.current_gradient_accumulation_steps = max(1, sum(map(len, batched)))
        self.optimizer.zero_grad()
        meter = GradientMeter(self.model_wrapped.parameters()) if len(parts) > 1 else None
        self.work.begin("training on completions", sum(map(len, parts)), manifest.round)
        for part, batches in zip(parts, batched, strict=True):
            for rows in self.work.through(batches, processes):
                if should_stop():
                    self.optimizer.zero_grad()
                    raise StepAbandoned
                inputs = self._inputs(rows, part, scales)
                self._measuring.add_loss(self.training_step(self.model_wrapped, inputs, None))
            if meter is not None:
                self._kind_gradients[part[0].kind] = self._measure_kind(meter)
        scaler = self.accelerator.scaler
        if not any(batched) and scaler is not None:
            # The scaler has no scale until it has seen a loss.
            scaler.scale(torch.zeros((), device=self.accelerator.device))
        # Zeros, not None: AdamW's moments must decay even if there is nothing to learn, as in plain TRL.
        for parameter in self.model_wrapped.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._measuring.read()

    def _batches(self, part: list[TrainingRow], micro_batch: int) -> list[list[TrainingRow]]:
        """Return this process's rows of a part of a step, in micro-batches."""
        if self.group is None:
            return list(split(part, micro_batch))
        return list(split(deal(part, row_length, self.group.place, self.group.processes), micro_batch))

    def _inputs(
        self,
        rows: list[TrainingRow],
        part: list[TrainingRow],  # noqa: ARG002 - for processes without rows
        scales: Mapping[Kind, float],
    ) -> dict[str, Any]:
        """Return what ``_compute_loss`` gets for a micro-batch of a part of a step."""
        return {"batch": self._tensors(rows), "scales": scales, "counted": True}

    def _measure_kind(self, meter: GradientMeter) -> Tensor:
        """Return what is added up later to the norm of the gradient that a kind has just added."""
        return meter.added_norm() if self.group is None else meter.added_vector()

    def _parts(self, manifest: Manifest) -> list[list[TrainingRow]]:
        """Return the rows that a step computes, by kind."""
        penalty = self.train_config.beta > 0
        counted = [row for row in manifest.rows if row.teaches or (penalty and self._losses[row.kind].own)]
        if manifest.tokens is None:  # older manifests mix the kinds in a batch, and are replayed as they were
            return [counted]
        return [[row for row in counted if row.kind is kind] for kind in dict.fromkeys(row.kind for row in counted)]

    def finish_gradient(self, manifest: Manifest, measured: StepMeasures) -> StepResult:
        """Add up the processes' gradients and clip the sum. ``measured``: what all of them measured together."""
        if self.group is not None:
            self._add_up(self.group, wait_quietly if self.team is None else self.team.check)
        scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()
        norm = self._clip()
        parts = self._parts(manifest)
        shared = Counter(row.kind for part in parts for row in part)
        norms = {kind: float(value) / scale for kind, value in self._kind_gradients.items()}
        if len(shared) == 1:
            norms = dict.fromkeys(shared, norm)
        penalty = self.train_config.beta > 0
        return StepResult(
            loss=measured.loss,
            grad_norm=norm,
            learning_rate=0.0,
            tokens=measured.tokens.total(),
            rows=shared.total(),
            by_kind={
                kind: measured.summary(kind, self._losses[kind], penalty=penalty)
                | {"source_rows": shared[kind], "source_grad_norm": norms.get(kind)}
                for kind in measured.sums
            },
        )

    def _add_up(self, group: ProcessGroup, check: Callable[[], None]) -> None:
        """Add up the gradients of all processes, and the samples of each kind's."""
        group.add_up([each.grad for each in self.trainable() if each.grad is not None], check)
        group.add_up(self._kind_gradients.values(), check)
        self._kind_gradients = {kind: sample.square().sum().sqrt() for kind, sample in self._kind_gradients.items()}

    def _clip(self) -> float:
        """Clip the gradient, and return its norm before."""
        return float(self.accelerator.clip_grad_norm_(self.model_wrapped.parameters(), self.args.max_grad_norm))

    def take(self, manifest: Manifest, norm: float) -> float:
        """Take the step with the gradient, whose norm was ``norm``, and return the learning rate.

        Not repeated, because the weights may have moved when memory runs out.
        """
        kinds = {row.kind for part in self._parts(manifest) for row in part}
        if kinds and _SUPERVISED.issuperset(kinds) and manifest.tokens:
            for group in self.optimizer.param_groups:  # the schedule sets the rate again for the next step
                group["lr"] *= self._teacher_factor
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        # One step with an infinite gradient ruins the weights. With float16 the scaler must see it to skip the step.
        if math.isfinite(norm) or self.accelerator.scaler is not None:
            self.optimizer.step()
        self.lr_scheduler.step()
        self.state.global_step = manifest.step + 1
        return learning_rate

    def free_gradients(self) -> None:
        """Free the memory of the last step's gradients, which generation needs."""
        self.optimizer.zero_grad()

    def log_probabilities(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Return log π of each completion's tokens under the current weights, at the sampling temperature."""
        found: list[list[float]] = [[] for _ in rows]
        # Batch rows of similar length together, because padding costs time.
        order = sorted(range(len(rows)), key=lambda i: row_length(rows[i]))
        start, size = 0, self.micro_batch(rows)
        self.generator.eval()
        while start < len(order):
            places = order[start : start + size]
            logps, ran_out = within_memory(partial(self._scores, [rows[i] for i in places]))
            if logps is None:
                size, _ = self._micro_batches.shrink(size, str(ran_out))
                continue
            for i, values in zip(places, logps, strict=True):
                found[i] = values[: len(rows[i].completion_ids)]
            start += size
        return found

    @torch.no_grad()
    def _scores(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Return log π of the tokens of one batch of completions, with padding."""
        scored: list[list[float]] = self._score(self.generator, self._tensors(rows))[0].float().tolist()
        return scored

    def close(self) -> None:
        """Let the logging backends finish."""
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        if "wandb" in self.args.report_to:
            import wandb

            wandb.finish()

    def report(self, metrics: Mapping[str, float | None]) -> None:
        """Send metrics to the logging backends in ``report.to``. Skips values that are None."""
        self._metrics["train"].clear()
        self.log({key: value for key, value in metrics.items() if value is not None})
        # A node can run for months. The backends keep the history, so it need not stay in memory.
        self.state.log_history.clear()

    def save(self, directory: Path, check: Callable[[], None] = lambda: None) -> None:
        """Write model or adapter, tokenizer, optimizer, schedule and random state. ``check``: as in ``save_state``."""
        self._write(directory, self.optimizer.state_dict(), check)

    def _write(
        self, directory: Path, optimizer: Mapping[str, Any], check: Callable[[], None], **weights: Mapping[str, Tensor]
    ) -> None:
        self.policy.save_pretrained(directory / MODEL, **weights)
        self._tokenizer.save_pretrained(directory / MODEL)
        save_state(directory / STATE, optimizer, self.lr_scheduler, check)

    def restore(self, directory: Path) -> None:
        """Return to the state of a checkpoint, in place: weights, optimizer, schedule and random state."""
        if self.team is not None:
            self.team.ask("restore", str(directory))
        policy = self.policy
        if hasattr(policy, "peft_config"):
            from peft import load_peft_weights, set_peft_model_state_dict

            adapters = load_peft_weights(str(directory / MODEL), device="cpu")
            set_peft_model_state_dict(policy, self._divided(adapters))
        else:
            saved = type(self.generator).from_pretrained(directory / MODEL, dtype=policy.dtype)
            policy.load_state_dict(self._divided(saved.state_dict()))
        self.load(directory)
        if self.team is not None:
            self.team.answers()

    def _divided(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return whole weights as this process holds them."""
        return weights

    def load(self, directory: Path) -> None:
        """Restore what ``save`` wrote, except the model, which was already built from the same directory."""
        load_state(directory / STATE, self.optimizer, self.lr_scheduler)
