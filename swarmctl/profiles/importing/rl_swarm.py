"""The settings of RL Swarm's YAML, and what each becomes here. Data only: ``command.py`` applies it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Converter = Callable[[Any], Any]


def number(value: Any) -> float:
    """YAML 1.1 reads 1e-6 as a text, for want of a point."""
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def whole(value: Any) -> int:
    if isinstance(value, bool) or number(value) != int(number(value)):
        raise ValueError
    return int(number(value))


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def dtype(value: Any) -> str:
    return text(value).removeprefix("torch.")


def data_set(value: Any) -> list[dict[str, Any]]:
    """GSM8K, or one's own questions in a file."""
    name = text(value)
    if name.lower().rstrip("/").endswith("gsm8k"):
        return [{"name": "gsm8k"}]
    if name.endswith(".jsonl"):
        return [{"name": "jsonl", "path": name}]
    raise ValueError


def repository(value: Any) -> str:
    """The owner must be named: here nobody asks the hub who the token belongs to."""
    if text(value).count("/") != 1:
        raise ValueError
    return str(value)


def modules(value: Any) -> str:
    return ",".join(map(text, value)) if isinstance(value, list) else text(value)


@dataclass(frozen=True, slots=True)
class Carry:
    """A key whose value goes into the profile."""

    setting: str
    convert: Converter
    note: str | None = None
    """What is different here."""


CARRIED: Mapping[str, Carry] = {
    "model_name_or_path": Carry("model.name", text),
    "model_revision": Carry("model.revision", text),
    "torch_dtype": Carry("model.dtype", dtype),
    "dtype": Carry("model.dtype", dtype),
    "gradient_checkpointing": Carry("model.gradient_checkpointing", switch),
    "dataset_id_or_path": Carry("tasks", data_set),
    "max_rounds": Carry("game.rounds", whole, "a round here is one optimizer step"),
    "num_generations": Carry("game.group_size", whole),
    "max_prompt_length": Carry(
        "generation.max_prompt_tokens", whole, "a longer prompt is skipped here; there it lost its beginning"
    ),
    "max_completion_length": Carry("generation.max_completion_tokens", whole),
    "temperature": Carry("generation.temperature", number),
    "learning_rate": Carry("train.learning_rate", number, "constant after the warm-up"),
    "warmup_steps": Carry("train.warmup_steps", whole),
    "weight_decay": Carry("train.weight_decay", number),
    "max_grad_norm": Carry("train.max_grad_norm", number),
    "per_device_train_batch_size": Carry("train.micro_batch", whole, "memory and speed only"),
    "epsilon": Carry("train.epsilon", number),
    "epsilon_high": Carry("train.epsilon_high", number),
    "delta": Carry("train.delta", number),
    "beta": Carry("train.beta", number, "above 0 a reference model takes memory"),
    "save_steps": Carry("checkpoint.every", whole, "in rounds; between checkpoints the journal keeps every step"),
    "save_total_limit": Carry("checkpoint.keep", whole),
    "eval_steps": Carry("eval.every", whole, "in rounds"),
    "seed": Carry("node.seed", whole),
}

LORA: Mapping[str, Carry] = {
    "lora_r": Carry("model.lora.rank", whole),
    "lora_alpha": Carry("model.lora.alpha", whole),
    "lora_dropout": Carry("model.lora.dropout", number),
    "lora_target_modules": Carry("model.lora.targets", modules),
}

_SWARM = "addresses belong to a swarm's invitation and to this node, not to how it trains"
_EVENTS = "every round is written to the node's events"
_ON_POLICY = "rollouts are drawn from the policy itself, as the loss assumes"
_CHAIN = "there is no blockchain and no login here"
_VLLM = "this trainer generates by itself"

DROPPED: Mapping[str, str] = {
    "tf32": "torch's own default is kept",
    "attn_implementation": "transformers chooses what the machine has",
    "trust_remote_code": "code that comes with a model is never run",
    "use_cache": "the trainer decides",
    "load_in_4bit": "weights are not quantised; [model.lora] saves memory",
    "load_in_8bit": "weights are not quantised; [model.lora] saves memory",
    "gradient_checkpointing_kwargs": "the trainer decides",
    "dataset_config": "gsm8k has one form here",
    "dataset_splits": "held-out questions are chosen by the node itself",
    "max_steps": "a stage is one step here; game.rounds says how long a node trains",
    "num_train_epochs": "game.rounds says how long a node trains",
    "lr_scheduler_type": "the rate is constant after the warm-up, as a node has no planned end",
    "warmup_ratio": "a share of a planned end, which a node does not have; train.warmup_steps counts steps",
    "optim": "AdamW is what is tested",
    "num_iterations": "each rollout is used for one step",
    "loss_type": "the loss is chosen by the source of a rollout",
    "scale_rewards": "the loss is chosen by the source of a rollout",
    "reward_weights": "rewards come from the task's verifier",
    "per_device_eval_batch_size": "generation.batch serves evaluations as well",
    "eval_strategy": "there is always an evaluation before, after and every eval.every rounds",
    "top_p": _ON_POLICY,
    "top_k": _ON_POLICY,
    "min_p": _ON_POLICY,
    "repetition_penalty": _ON_POLICY,
    "use_vllm": _VLLM,
    "logging_strategy": _EVENTS,
    "logging_steps": _EVENTS,
    "logging_first_step": _EVENTS,
    "log_completions": _EVENTS,
    "logging_dir": "TensorBoard's files lie in the node's directory",
    "output_dir": "everything of a node lies in its own directory",
    "overwrite_output_dir": "everything of a node lies in its own directory",
    "save_strategy": "checkpoints are always kept; checkpoint.every says how often",
    "public_maddr": _SWARM,
    "host_maddr": _SWARM,
    "initial_peers": _SWARM,
    "announce_maddrs": _SWARM,
    "identity_path": "a node makes its own identity",
    "game": "tasks say what is asked, and game.kind how: sampling or study-group",
    "org_id": _CHAIN,
    "contract_address": _CHAIN,
    "wallet_private_key": _CHAIN,
    "modal_org_id": _CHAIN,
    "hub_always_push": "of several models that wait, the newest is pushed",
    "hub_revision": "the main branch is pushed to",
    "wandb_project": "say it in $WANDB_PROJECT",
    "run_name": "the node's name serves",
}

PREFIXES: Mapping[str, str] = {
    "vllm_": _VLLM,
    "bnb_4bit_": "weights are not quantised; [model.lora] saves memory",
    "dataset_": "a task brings its own questions",
    "fsdp": "a node trains on one device",
    "deepspeed": "a node trains on one device",
    "ddp_": "a node trains on one device",
    "dataloader_": "questions are made on the spot",
}

OFFLOAD = ("use_openai_api", "openai_model_name", "openai_base_url")
"""Of the branch that generated by OpenAI's API."""

HUB: Mapping[str, Carry] = {
    "hub_model_id": Carry("hub.repo", repository),
    "hub_private_repo": Carry("hub.private", switch),
}

_COMPUTED = ("bf16", "fp16", "gradient_accumulation_steps", "report_to", "use_peft", "push_to_hub", "hub_strategy")
SPECIAL = frozenset({*_COMPUTED, *LORA, *HUB, *OFFLOAD})
"""Keys whose meaning depends on other keys: ``swarmctl.profiles.importing.convert``."""

KNOWN = frozenset({*CARRIED, *DROPPED, *SPECIAL})
