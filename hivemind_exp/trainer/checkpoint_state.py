"""What a checkpoint holds besides its seal: the model for anyone to use, and what only the next step needs."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

MODEL = "model"
"""Directory within a checkpoint that ``from_pretrained`` reads: the whole model, or the adapter."""
_STATE = "trainer.pt"


def save_state(step_trainer: SourceGRPOTrainer, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write model or adapter, tokenizer, optimizer, schedule and random generators."""
    step_trainer.policy.save_pretrained(directory / MODEL)
    tokenizer.save_pretrained(directory / MODEL)
    state = {
        "optimizer": step_trainer.optimizer.state_dict(),
        "schedule": step_trainer.lr_scheduler.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(state, directory / _STATE)


def load_state(step_trainer: SourceGRPOTrainer, directory: Path) -> None:
    """Restore what ``save_state`` wrote besides the model, which was built from the same directory."""
    state: dict[str, Any] = torch.load(directory / _STATE, map_location="cpu", weights_only=True)
    step_trainer.optimizer.load_state_dict(state["optimizer"])
    step_trainer.lr_scheduler.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"])
