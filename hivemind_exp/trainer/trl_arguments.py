"""The arguments of TRL's trainer that follow from a node's settings."""

from pathlib import Path
from typing import Any

from trl import GRPOConfig

from hivemind_exp.config import Config
from hivemind_exp.trainer.report_places import PROJECT


def trl_arguments(config: Config, output: Path, device: str, dtype: str) -> GRPOConfig:
    """Return the arguments. ``output``: the directory for the logging backends' files."""
    train, generation = config.train, config.generation
    return (_DividedLater if train.shard else GRPOConfig)(
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
        optim=_optimizer(config, device, dtype),
        beta=0.0,
        loss_type="dapo",
        temperature=generation.temperature,
        max_completion_length=generation.max_completion_tokens,
        num_generations=config.game.group_size,
        per_device_train_batch_size=config.game.group_size,
        gradient_checkpointing=config.model.gradient_checkpointing,
        report_to=list(config.report.to) or "none",
        project=PROJECT,
        trackio_static_space_id=False,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
    )


class _DividedLater(GRPOConfig):  # type: ignore[misc]
    @property
    def place_model_on_device(self) -> bool:
        """Whether TRL moves the whole model to the device."""
        return False


def _optimizer(config: Config, device: str, dtype: str) -> str:
    """Return the optimizer's name in transformers. On an NVIDIA card one kernel updates all weights, which needs no
    memory. On a CPU the update stays as it was, so that resumed nodes get the same bits."""
    if config.train.optimizer == "adamw-8bit":
        return "adamw_bnb_8bit"
    return "adamw_torch_fused" if device.startswith("cuda") and dtype != "float16" else "adamw_torch"


def no_reward(**_: Any) -> list[float]:
    """TRL wants a reward function. Never called."""
    raise AssertionError("rewards come with the rollouts")
