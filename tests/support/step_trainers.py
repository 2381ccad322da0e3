"""Trainers that take steps on the tiny model without a node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hivemind_exp.config import Config
from hivemind_exp.models.loading import adapter_config
from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

TOKENIZER = build_tokenizer()


def tiny_trainer(root: Path, config: Config, reference: PreTrainedModel | None = None) -> SourceGRPOTrainer:
    """Return a trainer of the untrained tiny model."""
    return SourceGRPOTrainer(
        build_model(TOKENIZER, 0),
        TOKENIZER,
        config,
        root,
        device="cpu",
        dtype="float32",
        reference=reference,
        peft_config=adapter_config(config.model.lora),
    )


def make_step_trainer(
    root: Path,
    *,
    reference: PreTrainedModel | None = None,
    model: Mapping[str, Any] | None = None,
    **train: Any,
) -> SourceGRPOTrainer:
    """Return a trainer whose steps are large from the start. ``model``, ``train``: more settings of these sections."""
    settings = {
        "model": {"name": "tiny", **(model or {})},
        "train": {"learning_rate": 1e-2, "warmup_steps": 0, **train},
    }
    return tiny_trainer(root, Config.model_validate(settings), reference)
