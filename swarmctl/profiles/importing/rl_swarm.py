"""The settings in RL Swarm's YAML and what each becomes here. Data only; ``convert.py`` applies it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, StrictBool, TypeAdapter

from hivemind_exp.config import QUESTION_FILES


def number(value: Any) -> float:
    """Return a number, also from a string: YAML 1.1 reads 1e-6 as a string because it has no decimal point."""
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def whole(value: Any) -> int:
    """Return a whole number, which may be written as 8.0 or as text. Raises ValueError."""
    if isinstance(value, bool) or number(value) != int(number(value)):
        raise ValueError
    return int(number(value))


text = TypeAdapter(Annotated[str, Field(strict=True, min_length=1)]).validate_python
switch = TypeAdapter(StrictBool).validate_python


def dtype(value: Any) -> str:
    """Return the name of a number format, without "torch."."""
    return text(value).removeprefix("torch.")


def data_set(value: Any) -> list[dict[str, Any]]:
    """Return the task for a data set: GSM8K or the user's own question file."""
    name = text(value)
    if name.lower().rstrip("/").endswith("gsm8k"):
        return [{"name": "gsm8k"}]
    if name.lower().endswith(QUESTION_FILES):
        return [{"name": "jsonl", "path": name}]
    raise ValueError


def repository(value: Any) -> str:
    """Return OWNER/NAME. The owner is required, because the hub is not asked whose token it is."""
    if text(value).count("/") != 1:
        raise ValueError
    return str(value)


def modules(value: Any) -> str:
    """Return the names of modules as ``model.lora.targets`` takes them: with commas in between."""
    return ",".join(map(text, value)) if isinstance(value, list) else text(value)


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A key whose value goes into the profile."""

    setting: str
    convert: Callable[[Any], Any]
    note: str | None = None
    """What is different here, if anything."""


CONVERTED: Mapping[str, KeyRule] = {
    "model_name_or_path": KeyRule("model.name", text),
    "model_revision": KeyRule("model.revision", text),
    "torch_dtype": KeyRule("model.dtype", dtype),
    "dtype": KeyRule("model.dtype", dtype),
    "gradient_checkpointing": KeyRule("model.gradient_checkpointing", switch),
    "dataset_id_or_path": KeyRule("tasks", data_set),
    "max_rounds": KeyRule("game.rounds", whole, "a round here is one optimizer step"),
    "num_generations": KeyRule("game.group_size", whole),
    "max_prompt_length": KeyRule(
        "generation.max_prompt_tokens", whole, "longer prompts are skipped here; RL Swarm cut their beginning"
    ),
    "max_completion_length": KeyRule("generation.max_completion_tokens", whole),
    "temperature": KeyRule("generation.temperature", number),
    "learning_rate": KeyRule("train.learning_rate", number, "constant after warm-up"),
    "warmup_steps": KeyRule("train.warmup_steps", whole),
    "weight_decay": KeyRule("train.weight_decay", number),
    "max_grad_norm": KeyRule("train.max_grad_norm", number),
    "per_device_train_batch_size": KeyRule("train.micro_batch", whole, "only affects memory and speed"),
    "beta": KeyRule("train.beta", number, "above 0, a reference model takes memory"),
    "save_steps": KeyRule("checkpoint.every", whole, "in rounds; between checkpoints, the journal keeps every step"),
    "save_total_limit": KeyRule("checkpoint.keep", whole),
    "eval_steps": KeyRule("eval.every", whole, "in rounds"),
    "seed": KeyRule("node.seed", whole),
}

LORA: Mapping[str, KeyRule] = {
    "lora_r": KeyRule("model.lora.rank", whole),
    "lora_alpha": KeyRule("model.lora.alpha", whole),
    "lora_dropout": KeyRule("model.lora.dropout", number),
    "lora_target_modules": KeyRule("model.lora.targets", modules),
}

_DROPPED: Mapping[str, str] = {
    "PyTorch's default is kept": "tf32",
    "transformers chooses what the machine supports": "attn_implementation",
    "code from model repositories is never run": "trust_remote_code",
    "the trainer decides": "use_cache gradient_checkpointing_kwargs",
    "weights are not quantized; [model.lora] saves memory": "load_in_4bit load_in_8bit bnb_4bit_*",
    "gsm8k has only one configuration here": "dataset_config",
    "the node chooses held-out questions itself": "dataset_splits",
    "a stage is one step here; game.rounds sets how long a node trains": "max_steps",
    "game.rounds sets how long a node trains": "num_train_epochs",
    "the rate is constant after warm-up, because a node has no planned end": "lr_scheduler_type",
    "a share of the total steps, which a node does not have; use train.warmup_steps": "warmup_ratio",
    "AdamW is the only optimizer": "optim",
    "each rollout is used for one step, so there is no ratio to clip": "num_iterations epsilon epsilon_high delta",
    "the loss depends on a rollout's source": "loss_type scale_rewards",
    "rewards come from the task's verifier": "reward_weights",
    "generation.batch also applies to evaluations": "per_device_eval_batch_size",
    "a node always evaluates before and after training and every eval.every rounds": "eval_strategy",
    "rollouts are sampled from the unmodified policy, as the loss assumes": "top_p top_k min_p repetition_penalty",
    "this trainer generates without vLLM": "use_vllm vllm_*",
    "every round is written to the node's events": "logging_strategy logging_steps logging_first_step log_completions",
    "TensorBoard files are in the node's directory": "logging_dir",
    "all files of a node are in its directory": "output_dir overwrite_output_dir",
    "checkpoints are always saved; checkpoint.every sets how often": "save_strategy",
    "addresses come from the swarm's invitation and the node, not from the profile": (
        "public_maddr host_maddr initial_peers announce_maddrs"
    ),
    "a node creates its own identity": "identity_path",
    "tasks sets the questions, and game.kind the game: sampling or study-group": "game",
    "there is no blockchain and no login here": "org_id contract_address wallet_private_key modal_org_id",
    "if several models wait to be pushed, only the newest is": "hub_always_push",
    "models are pushed to the main branch": "hub_revision",
    "hub.every sets when": "hub_strategy",
    "set $WANDB_PROJECT instead": "wandb_project",
    "the node's name is used": "run_name",
    "a task brings its own questions": "dataset_*",
    "a node trains on one device": "fsdp* deepspeed* ddp_*",
    "questions are generated as needed": "dataloader_*",
}
"""Why keys, or patterns of keys, have no counterpart here. The first matching pattern applies."""

DROPPED: Mapping[str, str] = {key: why for why, keys in _DROPPED.items() for key in keys.split()}
"""The reasons by key or pattern; a pattern ends in ``*``."""

OFFLOAD: Mapping[str, KeyRule] = {
    "use_openai_api": KeyRule("offload.provider", lambda _: "openai"),
    "openai_model_name": KeyRule("offload.model", text),
}
"""Settings of the RL Swarm branch that generated with OpenAI's API."""

HUB: Mapping[str, KeyRule] = {
    "hub_model_id": KeyRule("hub.repo", repository),
    "hub_private_repo": KeyRule("hub.private", switch),
}

_COMPUTED = ("bf16", "fp16", "gradient_accumulation_steps", "report_to", "use_peft", "push_to_hub", "openai_base_url")
SPECIAL = frozenset({*_COMPUTED, *LORA, *HUB, *OFFLOAD})
"""Keys whose meaning depends on other keys; see ``swarmctl.profiles.importing.convert``."""

KNOWN = frozenset({*CONVERTED, *DROPPED, *SPECIAL})
