"""TRL's GRPO trainer, fed with finished rollouts from any source. One optimizer serves the node's whole life.

TRL generates, scores and weighs completions inside its step. Here that is done beforehand, and the step takes its rows
from the manifest. TRL still provides the model's preparation, precision, the memory-saving log-probabilities, the
backward pass, the optimizer and the logging backends. ``HOOKS`` lists the private members of TRL in use, and tests
guard them.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, pad

from hivemind_exp.config import Config
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.rollouts.types import Kind, answer_tokens
from hivemind_exp.trainer.checkpoints import MODEL, STATE
from hivemind_exp.trainer.gradient_meter import GradientMeter
from hivemind_exp.trainer.report_places import place_reports
from hivemind_exp.trainer.token_rows import own_like, reverse_kl, token_rows, token_scales
from hivemind_exp.trainer.trl_arguments import trl_arguments

_OF_SETTINGS = ("initial_lr", "weight_decay")
"""Keys of the optimizer's parameter groups that settings define, not the training so far."""
_SUPERVISED = frozenset({Kind.TEACHER, Kind.HINTED})
"""Kinds of verified text that is not a sample of the policy. A step on nothing else is supervised learning."""
HOOKS = ("_prepare_inputs", "_compute_loss", "_get_per_token_logps_and_entropies", "_tokenizer", "_metrics")
"""Private members of TRL's trainer that this module overrides or uses, besides ``pad`` and ``add_fused_lm_head``."""

ACCELERATOR_PADDING = 32
"""Widths on an accelerator are rounded up to a multiple of this: new shapes cost new memory blocks and kernels."""


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
        if device.startswith("cuda"):
            # Rows are padded on the left, and cuDNN's backward pass gives NaN for fully masked queries (torch 2.11,
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
        self.train_config = config.train
        self._losses = choose_losses(config.train)
        self._reference = reference
        if config.model.gradient_checkpointing:
            # transformers does this in ``train()``, which is not called here.
            self.policy.activation_checkpointing_enable()
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

    def step(self, manifest: Manifest, should_stop: Callable[[], bool] = lambda: False) -> StepResult:
        """Take one optimizer step.

        Rows that teach nothing add nothing to the loss or gradient, so they skip the forward pass. Their tokens still
        count in the denominator. A step with nothing but a teacher's or hinted rows is supervised learning, at a rate
        of its own.
        Raises ``StepAbandoned`` if ``should_stop`` returned true before the optimizer step.
        """
        set_seed(manifest.seed)
        self._kind_tokens, self._kind_sums, self._weighted = Counter(), {}, set()
        self._floor, self._beside_answer = manifest.floor, manifest.tokens is not None
        penalty = self.train_config.beta > 0
        counted = [row for row in manifest.rows if row.teaches or (penalty and self._losses[row.kind].own)]
        shared = Counter(row.kind for row in counted)
        kinds = list(shared)
        # Older manifests mix the kinds in a batch, and are replayed as they were.
        parts = [[row for row in counted if row.kind is kind] for kind in kinds] if manifest.tokens else [counted]
        batches = [rows for part in parts for rows in _micro_batches(part, manifest.micro_batch)]
        scales = token_scales(manifest, self._losses, self.train_config.off_policy_weight)
        self.current_gradient_accumulation_steps = max(1, len(batches))
        self.optimizer.zero_grad()
        meter = GradientMeter(self.model_wrapped.parameters()) if len(parts) > 1 else None
        losses, norms = [], {}
        for place, rows in enumerate(batches):
            if should_stop():
                self.optimizer.zero_grad()
                raise StepAbandoned
            losses.append(self.training_step(self.model_wrapped, self._tensors(rows, scales), None))
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
        if kinds and _SUPERVISED.issuperset(kinds) and manifest.tokens:
            for group in self.optimizer.param_groups:  # the schedule sets the rate again for the next step
                group["lr"] *= self._teacher_factor
        learning_rate = self.optimizer.param_groups[0]["lr"]
        # One step with an infinite gradient ruins the weights. With float16 the scaler must see it to skip the step.
        if math.isfinite(norm) or self.accelerator.scaler is not None:
            self.optimizer.step()
        self.lr_scheduler.step()
        self.state.global_step = manifest.step + 1
        return StepResult(
            loss=float(sum(losses)),
            grad_norm=float(norm),
            learning_rate=learning_rate,
            tokens=self._kind_tokens.total(),
            rows=sum(len(rows) for rows in batches),
            by_kind={kind: self._summary(kind) | {"source_rows": shared[kind]} for kind in self._kind_sums},
        )

    def log_probabilities(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """Return log π of each completion's tokens under the current weights, at the sampling temperature."""
        found: list[list[float]] = [[] for _ in rows]
        # Batch rows of similar length together, because padding costs time.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt_ids) + len(rows[i].completion_ids))
        size = self.train_config.micro_batch
        self.model.eval()
        with torch.no_grad():
            for places in (order[start : start + size] for start in range(0, len(order), size)):
                inputs = self._tensors([rows[i] for i in places])
                logps, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, inputs["ids"], inputs["attention"], inputs["mask"].size(1)
                )
                for i, values in zip(places, logps.float().tolist(), strict=True):
                    found[i] = values[: len(rows[i].completion_ids)]
        return found

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

    def _tensors(self, rows: Sequence[TrainingRow], scales: Mapping[Kind, float] | None = None) -> dict[str, Any]:
        """Return rows as (B, P + T) ids and attention, with the (B, T) mask of what is learned.

        That is the completions; in conversations, only what the model wrote. Prompts are padded on the left to P,
        completions on the right to T. ``scales``: what each kind's token loss is multiplied by.
        """
        device = self.accelerator.device
        multiple = 1 if device.type == "cpu" else ACCELERATOR_PADDING

        def padded(sequences: Iterable[tuple[int, ...]], side: str) -> tuple[Tensor, Tensor]:
            tensors = [torch.tensor(ids) for ids in sequences]
            layout = {"padding_side": side, "pad_to_multiple_of": multiple}
            ids = pad(tensors, padding_value=self._tokenizer.pad_token_id, **layout)
            return ids.to(device), pad([torch.ones_like(each) for each in tensors], padding_value=0, **layout).to(
                device
            )

        prompts, prompt_mask = padded((row.prompt_ids for row in rows), "left")
        completions, mask = padded((row.completion_ids for row in rows), "right")
        ids, attention = torch.cat([prompts, completions], dim=1), torch.cat([prompt_mask, mask], dim=1)
        for i, row in enumerate(rows):
            for start, end in row.heard:
                mask[i, start:end] = 0
        return {"ids": ids, "attention": attention, "mask": mask, "rows": rows, "scales": scales}

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch unchanged: it was generated, verified and weighed before the step."""
        return generation_batch

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the sum of the token losses, each multiplied by its kind's scale, over one micro-batch."""
        ids, attention, mask = inputs["ids"], inputs["attention"], inputs["mask"]
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            model, ids, attention, mask.size(1), compute_entropy=True
        )
        divergence = self._divergence(ids, attention, logps)
        total: Tensor = logps.new_zeros(())
        for kind in sorted({row.kind for row in inputs["rows"]}):
            indices = [i for i, row in enumerate(inputs["rows"]) if row.kind is kind]
            loss, rows = self._losses[kind], [inputs["rows"][i] for i in indices]
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

    def _divergence(self, input_ids: Tensor, attention_mask: Tensor, logps: Tensor) -> Tensor | None:
        """Return the k3 estimate (Schulman 2020) of KL(π_θ ‖ π_ref), (B, T). None without a penalty."""
        if self.train_config.beta == 0:
            return None
        model, switched_off = self._reference, contextlib.nullcontext()
        if model is None:
            model, switched_off = self.model, self.policy.disable_adapter()
        with torch.no_grad(), switched_off:
            reference, _, _ = self._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logps.size(1))
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


def _micro_batches(rows: list[TrainingRow], size: int) -> Iterator[list[TrainingRow]]:
    """Yield rows in batches. Several batches are sorted by length, because padding costs time."""
    if len(rows) > size:
        rows = sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.completion_ids))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
