"""Builds a node's model and optimizer, from the hub, a directory or a checkpoint."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import ModelError
from hivemind_exp.events import Emit, PhaseEvent
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.models.device import Compute
from hivemind_exp.models.fused_kernels import check_fused
from hivemind_exp.models.loading import adapter_config, load_model, load_trained, with_adapter
from hivemind_exp.models.model_checks import check_head, check_lengths
from hivemind_exp.models.model_location import TINY
from hivemind_exp.models.quantized import check_quantized
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.secrets import Secrets, use_wandb_key
from hivemind_exp.seeds import derive_seed
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.trainer.checkpoints import MODEL, Checkpoint
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.sharded_grpo_step import ShardedGRPOTrainer

_WARMUP_EXAMPLES = 8192
"""Most questions from which the warm-up takes its demonstrations."""


@dataclass(frozen=True, slots=True)
class ModelBuilder:
    """Builds a node's model and its step trainer."""

    _config: Config
    _files: NodeFiles
    _emit: Emit
    _stop: StopFlag
    _secrets: Secrets
    _compute: Compute

    def step_trainer(
        self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks | None, checkpoint: Checkpoint | None
    ) -> SourceGRPOTrainer:
        """Return the step trainer, in its state at the checkpoint.

        ``tasks``: what the tiny model's warm-up asks; None: the model must be warmed up already. Raises ``ModelError``.
        """
        config, compute = self._config, self._compute
        check_quantized(config, compute.device)
        check_fused(config.model, compute.device)
        self._emit(PhaseEvent(name=f"loading {config.model.name}"))
        base = self._base_model(tokenizer, tasks)
        if config.model.name != TINY:
            check_head(base, tokenizer, config.model.name)
            if checkpoint is None:
                check_lengths(base.config, config.generation, config.model.name)
        reference = None
        if config.train.beta > 0 and config.model.lora is None:
            reference = base if checkpoint is not None else self._base_model(tokenizer, tasks)
        model, peft_config = base, adapter_config(config.model.lora)
        if "wandb" in config.report.to:
            use_wandb_key(self._secrets)
        if checkpoint is not None:
            peft_config, directory = None, str(checkpoint.path / MODEL)
            if config.model.lora is None:
                model = load_trained(config.model, directory, tokenizer, dtype=compute.dtype)
            else:
                model = with_adapter(base, directory, trainable=True)
        kind = ShardedGRPOTrainer if config.train.shard else SourceGRPOTrainer
        step_trainer = kind(
            model,
            tokenizer,
            config,
            self._files.root,
            device=compute.device,
            dtype=compute.dtype,
            reference=reference,
            peft_config=peft_config,
        )
        if checkpoint is not None:
            step_trainer.load(checkpoint.path)
        return step_trainer

    def _base_model(self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks | None) -> PreTrainedModel:
        """Return the model before the first step: from the hub or a directory, or built, warmed up and saved."""
        config = self._config
        if config.model.name != TINY or config.warmup.steps == 0:
            return load_model(
                config.model,
                tokenizer,
                dtype=self._compute.dtype,
                seed=config.node.seed,
                token=self._secrets.get("huggingface"),
                device=self._compute.device,
            )
        kept = self._files.base
        if not kept.exists():
            if tasks is None:
                raise ModelError(f"node {config.node.name} has not finished its warm-up yet", next="swarmctl status")
            self._warm_up(tokenizer, tasks, kept)
        return load_model(config.model.model_copy(update={"name": str(kept)}), tokenizer, dtype="float32", seed=0)

    def _warm_up(self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, kept: Path) -> None:
        from hivemind_exp.models.tiny import warm_up

        config = self._config
        model = load_model(config.model, tokenizer, dtype="float32", seed=config.node.seed)
        self._emit(PhaseEvent(name="generating demonstrations"))
        count = min(config.warmup.steps * config.warmup.batch, _WARMUP_EXAMPLES)  # a short one uses no more
        questions: list[Question] = tasks.questions("train", -1, count)
        warm_up(
            model,
            tokenizer,
            build_prompts(questions, tokenizer),
            config.warmup,
            seed=derive_seed(config.node.seed, "warmup"),
            progress=lambda done, total: self._emit(PhaseEvent(name="warming up", done=done, total=total)),
            should_stop=self._stop.is_set,
        )
        self._stop.check()
        partial = kept.with_name(".partial-base")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        partial.rename(kept)
