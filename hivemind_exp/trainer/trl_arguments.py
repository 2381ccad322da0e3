"""The arguments of TRL's trainer that follow from a node's settings."""

import os
from pathlib import Path

from trl import GRPOConfig

from hivemind_exp.config import Config

_PROJECT = "swarmctl"
"""What the logging backends call the project of all nodes."""
_ELSEWHERE = tuple(f"TRACKIO_{name}" for name in ("SPACE_ID", "SERVER_URL", "BUCKET_ID", "DATASET_ID", "WEBHOOK_URL"))


def trl_arguments(config: Config, output: Path, device: str, dtype: str) -> GRPOConfig:
    """Return the arguments. ``output``: the directory for the logging backends' files."""
    train, generation = config.train, config.generation
    return GRPOConfig(
        output_dir=str(output),
        run_name=config.node.name or None,
        use_cpu=device == "cpu",
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        seed=config.node.seed,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch",
        beta=0.0,
        loss_type="dapo",
        temperature=generation.temperature,
        max_completion_length=generation.max_completion_tokens,
        num_generations=config.game.group_size,
        per_device_train_batch_size=config.game.group_size,
        gradient_checkpointing=config.model.gradient_checkpointing,
        report_to=list(config.report.to) or "none",
        project=_PROJECT,
        trackio_static_space_id=False,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
    )


def place_reports(output: Path) -> None:
    """Put the logging backends' files in the node's directory. transformers reads it only from the environment."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")
    os.environ["WANDB_DIR"] = str(output)
    os.environ.setdefault("TRACKIO_DIR", str(output / "trackio"))
    for name in _ELSEWHERE:  # trackio would send metrics there
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_PROJECT", _PROJECT)
    # Send only metrics, neither console output nor the program's code.
    os.environ["WANDB_CONSOLE"] = "off"
    os.environ["WANDB_DISABLE_CODE"] = "true"
