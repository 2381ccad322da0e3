"""A node's configuration: one pydantic model. Its defaults are the tested setup, which is the default profile.

``swarmctl.settings`` resolves it from flags, environment and profile, and passes it to the trainer as JSON. This
module imports nothing heavier than pydantic.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from hivemind_exp.game_settings import STAGE_NAMES, GameConfig, StageName
from hivemind_exp.judge_settings import JudgeConfig
from hivemind_exp.progress_settings import CheckpointConfig, EvalConfig, JournalConfig, ReportConfig
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.serving_settings import BaseUrl, ServingConfig
from hivemind_exp.settings_table import AutoPositive, NotNegative, Positive, Section
from hivemind_exp.source_kinds import COUNTS_AS, POLICY_SERVER, Kind, OffloadKind
from hivemind_exp.supervision_settings import SupervisionConfig
from hivemind_exp.swarm_settings import SwarmConfig
from hivemind_exp.train_settings import NOT_SHARDED, TrainConfig
from hivemind_exp.warmup_settings import WarmStartConfig, WarmupConfig

Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")]
_REPOSITORY = r"^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?$"


class NodeConfig(Section):
    """The node's name and seed, and whether each run starts over."""

    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    """Name of the node and of its directory. Empty: the profile's name; of a file called profile.toml, its directory's
    name."""
    seed: NotNegative = 0
    """Seed of sampling and of adapter weights. Gives nodes with otherwise equal settings different results."""
    fresh: bool = False
    """Start over at every run. `run --fresh` does it once."""


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), trained instead of all weights."""

    rank: Positive = 16
    """Rank r of the update B·A."""
    alpha: Positive = 32
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    targets: str = "all-linear"
    """Modules with an adapter: "all-linear", or names separated by commas."""


def _adapter_shorthand(value: Any) -> Any:
    """Turn ``lora = true`` into an adapter of the default shape, and ``false`` into none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class ModelConfig(Section):
    """The model that is trained, and the device."""

    name: Annotated[str, Field(min_length=1)] = "Qwen/Qwen2.5-0.5B-Instruct"
    """A causal language model: a Hugging Face id, a directory, "smollm2" (SmolLM2-135M-Instruct, 93 MB from the Python
    package index), or "tiny" (built locally, for the demo)."""
    revision: str | None = None
    """Branch, tag or commit on the Hugging Face hub. Unset: the default branch."""
    device: Device = "auto"
    """cpu, mps, xpu, cuda, a numbered device such as cuda:1, or "auto": the best of CUDA, MPS, XPU and CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the computation. "auto": bfloat16 if the accelerator supports it, else float32."""
    threads: NotNegative = 0
    """PyTorch's CPU threads. 0: 1 for the model "tiny", which more threads would slow down. For other models, as
    many as the node has physical cores, within the limits of its container."""
    lora: Annotated[LoraConfig | None, BeforeValidator(_adapter_shorthand)] = None
    """Train adapters of this shape. Unset: train every weight."""
    load_in_4bit: bool = False
    """Load the frozen weights under adapters (model.lora) in 4 bits: a quarter of the memory, slower, less precise.
    Needs the package bitsandbytes."""
    fused_kernels: Literal["auto"] | bool = "auto"
    """Compute with Liger's kernels, which are faster on NVIDIA GPUs. "auto": if the package liger-kernel is installed
    and has them for the model's family."""
    thinking: bool | None = None
    """Turns the chat template's thinking mode on or off (Qwen3 and others). Unset: the template's default."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower. If memory runs out, the node turns
    this on by itself."""


class PromptConfig(Section):
    """How the node asks its questions. Answers count in any format. In a swarm, each node has its own style."""

    style: Literal["auto", "tags", "answer-tag", "boxed", "plain"] = "auto"
    """The format asked for: reasoning and answer in tags, only an answer tag, \\boxed{}, or just the answer. "auto":
    a new node tries them all, once, and keeps the one that its model follows best; "tiny" and older nodes use tags."""
    examples: Literal["auto"] | Annotated[int, Field(ge=0, le=8)] = "auto"
    """Questions of the same task that each prompt shows with their answers. They are never asked. "auto": decided with
    the style; 0 if the style is set."""
    system: bool | None = None
    """Whether the instruction is a system turn (true) or part of the question's turn (false). Unset: decided with the
    style; if the style is set, true for tags."""


class TaskConfig(Section):
    """One task of the mixture."""

    name: Annotated[str, Field(min_length=1)]
    """A built-in or installed task or a preset (`swarmctl tasks list`), "python-file" or "env:PACKAGE"."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the questions, relative to the other tasks."""
    path: str | None = None
    """Questions (JSON lines, JSON or Parquet; a file or directory), a local copy of GSM8K, or a task in Python."""
    check: Literal["exact", "math"] = "exact"
    """How answers to your own questions are compared: as text, or as mathematics (math-verify)."""
    params: dict[str, JsonValue] = {}
    """Parameters of a reasoning-gym generator, or of a Python task's questions."""
    max_turns: Positive | None = None
    """Maximum turns of your model in a conversation with an environment (env:PACKAGE). Unset: 10. The environment's own
    limit applies, too."""


class GenerationConfig(Section):
    """How completions are sampled."""

    max_prompt_tokens: Positive = 1024
    """Maximum tokens per prompt. Questions with longer prompts are skipped with a warning; prompts are never cut."""
    max_completion_tokens: Positive = 512
    """Maximum tokens per completion; longer ones are cut."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature. The loss uses the same distribution."""
    batch: AutoPositive = "auto"
    """Completions generated at a time, on each GPU. "auto": as many as fit into a GPU's free memory, at most 256; 64
    without one. Halved if memory runs out."""


class LimitsConfig(Section):
    """Limits on the cost and the rate of offloading."""

    usd: Annotated[float, Field(gt=0)] | Literal["unlimited"] = 5.00
    """The most this node may spend in total, in USD, over all runs and providers. "unlimited": no cap."""
    usd_per_day: Annotated[float, Field(gt=0)] | None = None
    """The most this node may spend per day (UTC), in USD. Unset: only the total cap applies."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64
    """Maximum requests in flight. Reduced when the service asks to slow down, then slowly raised again."""
    requests_per_minute: Positive | None = None
    """Maximum requests per minute. Unset: the limit that the service reports."""
    tokens_per_minute: Positive | None = None
    """Maximum tokens per minute, prompts and completions together. Unset: the limit that the service reports."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Seconds after which a request times out."""

    @property
    def capped(self) -> bool:
        """Whether a cap is set. If so, every price must be known and every completion limited in length."""
        return self.usd != "unlimited" or self.usd_per_day is not None


class PriceConfig(Section):
    """Price of a provider's model, if swarmctl doesn't know it or you pay a different one."""

    input: Annotated[float, Field(ge=0)]
    """USD per million prompt tokens."""
    output: Annotated[float, Field(ge=0)]
    """USD per million completion tokens, including hidden reasoning."""


class OffloadConfig(Section):
    """Completions from an OpenAI-compatible API. OFFLOAD_API.md explains this."""

    provider: Annotated[str, Field(min_length=1)] = "off"
    """A built-in provider, or the NAME of your [providers.NAME]. "off": generate on this machine."""
    model: str | None = None
    """Model at the provider. Unset: the provider's default."""
    kind: OffloadKind = "auto"
    """What the API's text counts as, which decides how the node learns from it. "auto": teacher."""
    teach: Literal["answers", "hints", "distillation"] = "answers"
    """What a teacher contributes. "answers": completions to learn from. "hints": a short hint where no completion from
    this machine is correct; this machine answers again with the hint, and learns the correct answers without it.
    "distillation": the log-probabilities of this machine's own completions (on-policy distillation), which only some
    services return, such as vLLM."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each group that the API generates. This machine generates the rest."""
    when: Literal["always", "failed"] = "always"
    """When the API generates. "failed": only for groups in which no completion from this machine is correct."""
    stages: Annotated[list[StageName], Field(min_length=1)] = ["answer"]
    """Stages in which the API generates. "sampling" only has "answer"."""
    rounds: Annotated[str, Field(pattern=r"^(\*|every [1-9]\d*|\d+(-\d*)?(,\d+(-\d*)?)*)$")] = "*"
    """Rounds in which the API generates, counted from 0: "*", "0-9,20-29", "100-" or "every 3"."""
    fallback: list[str] = ["local"]
    """What generates while the provider is unavailable, in order: providers, or "local". []: wait for the provider."""
    on_limit: Literal["stop", "local"] = "stop"
    """What to do when a cap is reached: stop, or generate locally. Never falls back to another paid provider."""
    ahead: Annotated[int, Field(ge=0, le=64)] | None = None
    """Rounds for which completions are requested in advance, while earlier rounds still train. Unset: 2; 16 with
    offload.batch; with offload.kind = "policy" not more than train.max_lag allows, and at most 1 without model.lora. No
    effect with offload.teach = "hints"."""
    batch: bool = False
    """Use the provider's Batch API: half the price, answers within 24 hours."""
    service_tier: Literal["default", "flex"] = "default"
    """"flex": cheaper, and slower when the service is busy. Only with providers that have it."""
    key: Literal["auto", "key_file", "environment", "credentials", "keyring", "file"] = "auto"
    """Where to read the API key from. "auto": the first place that has one."""
    max_tokens: Positive | None = None
    """Maximum tokens per completion from the API. Unset: generation.max_completion_tokens, but at least 1024 for a
    teacher."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """How much a reasoning model thinks. Unset: the service's default."""
    reasoning_tokens: NotNegative = 2048
    """Maximum tokens for hidden reasoning per completion, in addition to offload.max_tokens."""
    limits: LimitsConfig = LimitsConfig()
    serving: ServingConfig = ServingConfig()
    prices: dict[str, PriceConfig] = {}
    """Prices by provider. They override the built-in ones."""

    @property
    def counts_as(self) -> Kind:
        """What the completions count as, which decides how the node learns from them."""
        return COUNTS_AS[self.kind]


class ProviderConfig(Section):
    """An OpenAI-compatible service that is not built in."""

    base_url: BaseUrl
    """Base URL of the API, such as http://192.168.1.20:8000/v1."""
    model: str | None = None
    """Model to use when offload.model is unset."""
    needs_key: bool = False
    """Whether it needs an API key. Save one with: swarmctl keys set NAME --host URL."""
    group: Literal["n", "fan_out"] = "fan_out"
    """How a group is requested: one request with n choices, or one request per completion."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the request parameter that limits a completion's length."""
    free: bool = False
    """Whether it costs nothing because it runs on your own machines. If not, set its price in [offload.prices.NAME]."""
    batch: bool = False
    """Whether it supports OpenAI's Batch API, at half the price."""
    reasons: bool = False
    """Whether its model reasons before it answers. Only the estimate needs this; the node finds out by itself."""
    training: Literal["allowed", "restricted", "model", "unknown"] = "unknown"
    """Whether its terms allow training on its output. "model": see the model's license."""


class HubConfig(Section):
    """Where the trained model is pushed, with a card that lists what it learned from. Nothing is pushed by default."""

    repo: Annotated[str, Field(pattern=_REPOSITORY, max_length=96)] = ""
    """Repository on the Hugging Face hub, OWNER/NAME. Created if it doesn't exist. Empty: nothing is pushed."""
    every: NotNegative = 0
    """Rounds between pushes. The model is always pushed after the last round. 0: only then."""
    private: bool = True
    """Whether a new repository is private. Existing ones are not changed."""


QUESTION_FILES = (".jsonl", ".ndjson", ".json", ".parquet")
"""Suffixes of question files, in lower case."""
OWN_FILE = "python-file"
"""Name of a task that a Python file of the operator defines."""
ENVIRONMENT = "env:"
"""Begins the name of a task that is an environment of the package ``verifiers``."""


def task_tables(value: Any) -> Any:
    """Turn ``["sapo"]``, ``"sapo,gsm8k"``, ``"questions.jsonl"`` and ``"./directory"`` into tables.

    Other values are returned unchanged. A path that contains a comma must be in a list.
    """
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [_task_table(entry) if isinstance(entry, str) else entry for entry in value]
    return value


def _task_table(text: str) -> dict[str, str]:
    if text.startswith(ENVIRONMENT):
        return {"name": text}
    if text.lower().endswith(".py"):
        return {"name": OWN_FILE, "path": text}
    if text.lower().endswith(QUESTION_FILES) or "/" in text:
        return {"name": "jsonl", "path": text}
    return {"name": text}


class Config(Section):
    """Everything a node needs to run, resolved."""

    node: NodeConfig = NodeConfig()
    model: ModelConfig = ModelConfig()
    tasks: Annotated[list[TaskConfig], BeforeValidator(task_tables), Field(min_length=1)] = [TaskConfig(name="sapo")]
    prompt: PromptConfig = PromptConfig()
    game: GameConfig = GameConfig()
    generation: GenerationConfig = GenerationConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    journal: JournalConfig = JournalConfig()
    warmup: WarmupConfig = WarmupConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    report: ReportConfig = ReportConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    offload: OffloadConfig = OffloadConfig()
    judge: JudgeConfig = JudgeConfig()
    providers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")], ProviderConfig] = {}
    hub: HubConfig = HubConfig()
    swarm: SwarmConfig = SwarmConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup.steps and self.model.name != "tiny":
            raise ValueError('warmup.steps only works with model.name = "tiny": set it to 0, or use another profile')
        if self.warmup.steps and self.prompt.style not in ("auto", "tags"):
            raise ValueError('warmup.steps only works with prompt.style = "tags", which the warm-up teaches')
        if self.model.load_in_4bit and self.model.lora is None:
            raise ValueError("model.load_in_4bit needs model.lora: weights in 4 bits cannot be trained")
        if self.model.load_in_4bit and self.model.name == "tiny":
            raise ValueError('model.load_in_4bit does not work with model.name = "tiny"')
        if self.train.processes > 1 and self.model.device not in ("auto", "cuda", "cpu"):
            raise ValueError(
                "train.processes (--gpus) takes the first NVIDIA GPUs, so it needs model.device = auto or cuda, not "
                f"{self.model.device}. To choose other GPUs, set CUDA_VISIBLE_DEVICES"
            )
        if self.train.shard and (reason := self.why_not_shard()) is not None:
            raise ValueError(reason)
        if self.hub.repo and not (self.hub.every or self.game.rounds):
            raise ValueError("hub.repo needs hub.every or game.rounds: without either, the node would never push")
        if self.hub.repo and self.offload.counts_as is Kind.RELAY:
            kind = self.offload.kind
            raise ValueError(f'hub.repo cannot be used with offload.kind = "{kind}": a relay does not train a model')
        if self.game.kind == "sampling" and set(self.offload.stages) != {"answer"}:
            later = " and ".join(STAGE_NAMES[1:])
            raise ValueError(f'offload.stages may contain {later} only with game.kind = "study-group"')
        if self.game.kind == "sampling" and self.game.role != "none":
            raise ValueError('game.role only works with game.kind = "study-group"')
        taken = sorted({*self.providers} & {*PROVIDERS, "off", "local"})
        if taken:
            raise ValueError(f"providers.{taken[0]}: this name is reserved; use another name for your provider")
        return self

    def why_not_shard(self) -> str | None:
        """Return why ``train.shard`` cannot be used with the other settings; None if it can."""
        if self.train.processes == 1:
            return "train.shard needs train.processes (--gpus) of at least 2. For one process, set train.shard = false"
        model = self.model
        used = [self.train.optimizer != "adamw", model.load_in_4bit, model.fused_kernels is True]
        used += [model.dtype == "float16", self.offload.kind == POLICY_SERVER]
        found = next((each for each, is_used in zip(NOT_SHARDED.items(), used, strict=True) if is_used), None)
        return None if found is None else f"train.shard cannot be used with {found[0]}: {found[1]}"

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for name in self.game.only_sampling if self.game.kind == "study-group" else ():
            raise ValueError(f'game.{name} only works with game.kind = "sampling"')
        relay, kind = self.offload.counts_as is Kind.RELAY, f'offload.kind = "{self.offload.kind}"'
        for name in self.game.only_training if relay else ():
            raise ValueError(f"game.{name} cannot be used with {kind}: a relay does not train a model")
        if self.train.processes > 1 and relay:
            raise ValueError(f"train.processes cannot be used with {kind}: a relay trains no model")
        if self.game.format_reward and self.train.joins_baseline:
            why = f'train.teacher_loss = "{self.train.teacher_loss}" compares only outcomes'
            raise ValueError(f"game.format_reward would have no effect: {why}")
        if self.warm_start.steps and (self.model.name == "tiny" or relay):
            raise ValueError("warm_start.steps needs a model that can follow examples: not tiny, and not a relay")
        if self.warm_start.steps and self.game.kind == "study-group":
            raise ValueError('warm_start.steps only works with game.kind = "sampling"')
        return self

    @property
    def teacher_learning_rate(self) -> float:
        """The learning rate of steps that learn only from a teacher. Adapters need about ten times the rate of full
        weights."""
        usual = 1e-5 if self.model.lora is None else 1e-4
        return self.train.teacher_learning_rate or max(self.train.learning_rate, usual)


def charter_id(config: Config) -> str:
    """Return the id of the node's swarm. For a node without a swarm: SHA-256 (hex) of its tasks and seed, which
    determine its questions, as canonical JSON."""
    if config.swarm.charter is not None:
        return config.swarm.charter
    tasks = [task.model_dump(mode="json", exclude={"max_turns"}) for task in config.tasks]
    rules = {"tasks": tasks, "seed": config.node.seed}
    return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


OFF = "off"
