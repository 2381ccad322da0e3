"""TRL's GRPO trainer, fed with finished rollouts from any source. One optimizer serves the node's whole life.

TRL generates, scores and weighs completions inside its step. Here that is done beforehand, and the step takes its rows
from the manifest. TRL still provides the model's preparation, precision, the memory-saving log-probabilities, the
backward pass, the optimizer and the logging backends. ``HOOKS`` lists the private members of TRL in use, and tests
guard them. If memory runs out, the gradient is computed again with less memory (``MicroBatches``).
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from hivemind_exp.config import Config
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.models.out_of_memory import within_memory
from hivemind_exp.models.quantized import copy_adapters, restore_adapters
from hivemind_exp.rollouts.types import Kind, answer_tokens
from hivemind_exp.trainer.checkpoints import MODEL, STATE
from hivemind_exp.trainer.gradient_meter import GradientMeter
from hivemind_exp.trainer.micro_batches import MicroBatches, Say, split
from hivemind_exp.trainer.report_places import place_reports
from hivemind_exp.trainer.row_tensors import RowTensors, lay_out, score
from hivemind_exp.trainer.token_rows import own_like, reverse_kl, token_rows, token_scales
from hivemind_exp.trainer.trl_arguments import trl_arguments

_OF_SETTINGS = ("initial_lr", "weight_decay")
"""Keys of the optimizer's parameter groups that settings define, not the training so far."""
_SUPERVISED = frozenset({Kind.TEACHER, Kind.HINTED})
"""Kinds of verified text that is not a sample of the policy. A step on nothing else is supervised learning."""
HOOKS = ("_prepare_inputs", "_compute_loss", "_tokenizer", "_metrics")
"""Private members of TRL's trainer that this module overrides or uses, besides ``add_fused_lm_head``."""
Shrunk = Callable[[Manifest, str], None]
"""Called before a step is repeated because memory ran out: with its manifest, which has the micro-batch that is used
now, and a sentence about what changed."""


class StepAbandoned(Exception):
    """A stop was requested before the optimizer step. The weights are unchanged."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one optimizer step."""

    loss: float
    grad_norm: float
    """Before clipping. If it is not finite, the step was skipped and the weights are unchanged."""
    learning_rate: float
    tokens: int
    """Completion tokens of the rows that it learned from, without those that an environment wrote."""
    rows: int
    """Rows that it learned from."""
    by_kind: dict[Kind, dict[str, float | None]] = field(default_factory=dict)
    """For each kind of source: source_rows (its share of ``rows``), entropy (nats per token), kl (nats per token;
    None without a reference), clip_fraction (None without importance weights), source_grad_norm (norm of the
    gradient of its rows alone, before clipping). For external kinds also nll: the negative log-likelihood of their
    rows, in nats per token. For peers also filtered: the rows filtered out because this node is unlikely to
    generate them. If a teacher scored own rows, also reverse_kl: the mean log π_θ - log π_teacher over the scored
    tokens, in nats, each within ±5."""


class SourceGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
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
        super().__init__(
            model=model,
            reward_funcs=[_no_reward],
            args=trl_arguments(config, output, device, dtype),
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=tokenizer,
            peft_config=peft_config,
        )
        self.remove_callback(PrinterCallback)
        if config.model.load_in_4bit:
            restore_adapters(self.model, adapters)
        self.train_config = config.train
        self._losses = choose_losses(config.train)
        self._reference = reference
        self._micro_batches = MicroBatches(self.policy, config, device, half=dtype != "float32")
        if reference is not None:
            add_fused_lm_head(reference, temperature=self.temperature)
            reference.requires_grad_(False).eval().to(self.accelerator.device)
        # The number of steps is unknown. The schedule does not use it, because the rate is constant after the warm-up.
        self.create_optimizer_and_scheduler(num_training_steps=1)
        self.optimizer: torch.optim.Optimizer
        self.model_wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self._kind_tokens: Counter[Kind] = Counter()
        self._kind_sums: dict[Kind, Tensor] = {}
        """Within a step, for each kind (7,) on the device: entropy, kl, clipped tokens, negative log-likelihood,
        filtered rows, reverse KL, tokens that a teacher scored. Read once per step, because each read waits for the
        device."""
        self._kind_norms: dict[Kind, float] = {}
        self._weighted: set[Kind] = set()
        """The kinds whose tokens had importance weights in this step."""
        self._floor: float | None = None
        self._beside_answer = False
        """Whether the filter leaves out the answer's tokens. Steps of older manifests do not."""
        self._teacher_factor = config.teacher_learning_rate / config.train.learning_rate
        self.callback_handler.on_train_begin(self.args, self.state, self.control)

    @property
    def policy(self) -> PreTrainedModel:
        """The model without the training step's wrappers."""
        return self.accelerator.unwrap_model(self.model)

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
        of its own.
        Raises ``StepAbandoned`` if ``should_stop`` returned true before the optimizer step, and ``OutOfMemory`` if
        memory runs out even for one row at a time. The weights are unchanged then.
        """
        allowed = self._micro_batches.allowed(manifest.micro_batch)
        if allowed < manifest.micro_batch:
            manifest = replace(manifest, micro_batch=allowed)
            shrunk(manifest, "")
        while True:
            result, ran_out = within_memory(partial(self._gradient, manifest, should_stop))
            if result is not None:
                return self._update(manifest, result)
            self.optimizer.zero_grad()
            size, what = self._micro_batches.shrink(manifest.micro_batch, str(ran_out))
            manifest = replace(manifest, micro_batch=size)
            shrunk(manifest, what)

    def _gradient(self, manifest: Manifest, should_stop: Callable[[], bool]) -> StepResult:
        """Compute the clipped gradient of a step, and return what it measured. May be repeated."""
        set_seed(manifest.seed)
        self._kind_tokens, self._kind_sums, self._weighted = Counter(), {}, set()
        self._floor, self._beside_answer = manifest.floor, manifest.tokens is not None
        penalty = self.train_config.beta > 0
        counted = [row for row in manifest.rows if row.teaches or (penalty and self._losses[row.kind].own)]
        shared = Counter(row.kind for row in counted)
        kinds = list(shared)
        # Older manifests mix the kinds in a batch, and are replayed as they were.
        parts = [[row for row in counted if row.kind is kind] for kind in kinds] if manifest.tokens else [counted]
        batches = [rows for part in parts for rows in split(part, manifest.micro_batch)]
        scales = token_scales(manifest, self._losses, self.train_config.off_policy_weight)
        self.current_gradient_accumulation_steps = max(1, len(batches))
        self.optimizer.zero_grad()
        meter = GradientMeter(self.model_wrapped.parameters()) if len(parts) > 1 else None
        losses, norms = [], {}
        for place, rows in enumerate(batches):
            if should_stop():
                self.optimizer.zero_grad()
                raise StepAbandoned
            inputs = {"batch": self._tensors(rows), "scales": scales}
            losses.append(self.training_step(self.model_wrapped, inputs, None))
            if meter is not None and all(later[0].kind is not rows[0].kind for later in batches[place + 1 :]):
                norms[rows[0].kind] = meter.norm()
        scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()
        if not batches and self.accelerator.scaler is not None:
            # The scaler has no scale until it has seen a loss.
            self.accelerator.scaler.scale(torch.zeros((), device=self.accelerator.device))
        # Zeros, not None: AdamW's moments must decay even if there is nothing to learn, as in plain TRL.
        for parameter in self.model_wrapped.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = self.accelerator.clip_grad_norm_(self.model_wrapped.parameters(), self.args.max_grad_norm)
        self._kind_norms = {kind: float(value) / scale for kind, value in norms.items()}
        if len(kinds) == 1:
            self._kind_norms = {kinds[0]: float(norm)}
        return StepResult(
            loss=float(sum(losses)),
            grad_norm=float(norm),
            learning_rate=0.0,
            tokens=self._kind_tokens.total(),
            rows=sum(len(rows) for rows in batches),
            by_kind={kind: self._summary(kind) | {"source_rows": shared[kind]} for kind in self._kind_sums},
        )

    def _update(self, manifest: Manifest, result: StepResult) -> StepResult:
        """Take the step with the gradient. Not repeated, because the weights may have moved when memory runs out."""
        kinds = result.by_kind
        if kinds and _SUPERVISED.issuperset(kinds) and manifest.tokens:
            for group in self.optimizer.param_groups:  # the schedule sets the rate again for the next step
                group["lr"] *= self._teacher_factor
        learning_rate = self.optimizer.param_groups[0]["lr"]
        # One step with an infinite gradient ruins the weights. With float16 the scaler must see it to skip the step.
        if math.isfinite(result.grad_norm) or self.accelerator.scaler is not None:
            self.optimizer.step()
        self.lr_scheduler.step()
        self.state.global_step = manifest.step + 1
        return replace(result, learning_rate=learning_rate)

    def free_gradients(self) -> None:
        """Free the memory of the last step's gradients, which generation needs."""
        self.optimizer.zero_grad()

    def log_probabilities(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Return log π of each completion's tokens under the current weights, at the sampling temperature."""
        found: list[list[float]] = [[] for _ in rows]
        # Batch rows of similar length together, because padding costs time.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt_ids) + len(rows[i].completion_ids))
        start, size = 0, self.micro_batch(rows)
        self.model.eval()
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
        scored: list[list[float]] = self._score(self.model, self._tensors(rows))[0].float().tolist()
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

    def save(self, directory: Path) -> None:
        """Write the model or adapter, tokenizer, optimizer, schedule and random state."""
        self.policy.save_pretrained(directory / MODEL)
        self._tokenizer.save_pretrained(directory / MODEL)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, directory / STATE)

    def restore(self, directory: Path) -> None:
        """Return to the state of a checkpoint, in place: weights, optimizer, schedule and random state."""
        policy = self.policy
        if hasattr(policy, "peft_config"):
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(policy, load_peft_weights(str(directory / MODEL), device="cpu"))
        else:
            saved = type(policy).from_pretrained(directory / MODEL, dtype=policy.dtype)
            policy.load_state_dict(saved.state_dict())
        self.load(directory)

    def load(self, directory: Path) -> None:
        """Restore what ``save`` wrote, except the model, which was already built from the same directory.

        The learning rate and weight decay are those of this trainer's settings, which may have changed since.
        """
        state: dict[str, Any] = torch.load(directory / STATE, map_location="cpu", weights_only=True)
        settings = [{name: group[name] for name in _OF_SETTINGS} for group in self.optimizer.param_groups]
        base_rates = self.lr_scheduler.base_lrs
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["schedule"] | {"base_lrs": base_rates})
        factors = [factor(self.lr_scheduler.last_epoch) for factor in self.lr_scheduler.lr_lambdas]
        rates = [base * factor for base, factor in zip(base_rates, factors, strict=True)]
        self.lr_scheduler._last_lr = rates
        for group, kept, rate in zip(self.optimizer.param_groups, settings, rates, strict=True):
            group.update(kept, lr=rate)
        torch.set_rng_state(state["rng"])

    def _tensors(self, rows: Sequence[TrainingRow]) -> RowTensors:
        return lay_out(rows, self._tokenizer.pad_token_id, self.accelerator.device)

    def _score(self, model: torch.nn.Module, batch: RowTensors) -> tuple[Tensor, Tensor | None]:
        with self.accelerator.autocast():
            return score(model, batch)

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch unchanged: it was generated, verified and weighed before the step."""
        return generation_batch

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the sum of the token losses, each multiplied by its kind's scale, over one micro-batch."""
        batch: RowTensors = inputs["batch"]
        mask = batch.mask
        logps, entropies = self._score(model, batch)
        assert entropies is not None
        divergence = self._divergence(batch, logps)
        total: Tensor = logps.new_zeros(())
        for kind in sorted({row.kind for row in batch.rows}):
            indices = [i for i, row in enumerate(batch.rows) if row.kind is kind]
            loss, rows = self._losses[kind], [batch.rows[i] for i in indices]
            picked = torch.tensor(indices, device=logps.device)
            kind_mask = mask[picked]
            tokens = token_rows(rows, logps[picked], kind_mask)
            scored = loss.score_tokens(tokens, self.train_config)
            token_loss, kl, filtered = scored.loss, torch.zeros_like(logps[picked]), torch.zeros(())
            if divergence is not None and loss.own:
                kl = divergence[picked]
                token_loss = token_loss + self.train_config.beta * kl
            if loss.likelihood_filter and self._floor is not None:
                beside = kind_mask * self._outside_answers(rows, kind_mask) if self._beside_answer else kind_mask
                kept = own_like(logps[picked], beside, self._floor)
                filtered = ~kept
                token_loss = token_loss * kept.unsqueeze(1)
            total = total + (token_loss * kind_mask).sum() * inputs["scales"][kind]
            clipped = torch.zeros_like(kl)
            if scored.clipped is not None:
                self._weighted.add(kind)
                clipped = scored.clipped
            measured = [value * kind_mask for value in (entropies[picked], kl, clipped, -logps[picked])]
            measured += [filtered.to(logps.device), *reverse_kl(tokens)]
            sums = torch.stack([value.detach().float().sum() for value in measured])
            self._kind_sums[kind] = self._kind_sums[kind] + sums if kind in self._kind_sums else sums
            self._kind_tokens[kind] += sum(row.sampled for row in rows)
        return total

    def _outside_answers(self, rows: Sequence[TrainingRow], mask: Tensor) -> Tensor:
        """Return (B, T): 0 for the tokens of a row's answer, else 1."""
        outside = torch.ones_like(mask)
        for i, row in enumerate(rows):
            answer = answer_tokens(self._tokenizer, row.completion_ids, row.text)
            outside[i, answer.start : answer.stop] = 0
        return outside

    def _divergence(self, batch: RowTensors, logps: Tensor) -> Tensor | None:
        """Return the k3 estimate (Schulman 2020) of KL(π_θ ‖ π_ref), (B, T). None without a penalty."""
        if self.train_config.beta == 0:
            return None
        model, switched_off = self._reference, contextlib.nullcontext()
        if model is None:
            model, switched_off = self.model, self.policy.disable_adapter()
        with torch.no_grad(), switched_off:
            reference, _ = self._score(model, batch)
        difference: Tensor = reference - logps
        return torch.exp(difference) - difference - 1

    def _summary(self, kind: Kind) -> dict[str, float | None]:
        loss, tokens = self._losses[kind], self._kind_tokens[kind]
        entropy, kl, clipped, nll, filtered, divergence, scored = self._kind_sums[kind].tolist()
        summary = {
            "entropy": entropy / tokens,
            "clip_fraction": clipped / tokens if kind in self._weighted else None,
            "kl": kl / tokens if self.train_config.beta > 0 and loss.own else None,
            "source_grad_norm": self._kind_norms.get(kind),
            "nll": None if loss.own else nll / tokens,
        }
        if scored:
            summary["reverse_kl"] = divergence / scored
        return summary | ({"filtered": int(filtered)} if loss.likelihood_filter else {})


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("rewards come with the rollouts")
