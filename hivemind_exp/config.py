"""The configuration of a node: one model, whose defaults are the vetted setting.

``swarmctl.settings`` resolves it from flags, environment and profile. It is handed to the trainer as JSON and imports
nothing heavier than pydantic.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from hivemind_exp.providers import PROVIDERS

Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")]
_REPOSITORY = r"^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A table of a profile. Unknown keys are errors; an error never repeats the value that caused it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class NodeConfig(Section):
    """Who the node is."""

    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    """Name of the node, and of its directory. Empty: the name of the profile."""
    seed: NotNegative = 0
    """Seed of sampling and of adapter weights. Two nodes alike in all else differ by it."""
    fresh: bool = False
    """Start from nothing at every run. Only a node that was made so is ever emptied."""


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), trained instead of the whole model."""

    rank: Positive = 16
    """Rank r of the update B·A."""
    alpha: Positive = 32
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    targets: str = "all-linear"
    """Which modules get an adapter: "all-linear", or names separated by commas."""


def _adapter_shorthand(value: Any) -> Any:
    """Let ``lora = true`` stand for an adapter of the default shape, and ``false`` for none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class ModelConfig(Section):
    """What is trained, and where."""

    name: str = "Qwen/Qwen2.5-0.5B-Instruct"
    """A causal language model: an id on the hub, a directory, or "tiny" (built on the spot, for the demo)."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Unset: the default branch."""
    device: Device = "auto"
    """"auto" takes the best of CUDA, MPS, XPU and CPU; or one of cuda, cuda:1, mps, xpu, cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the computation. "auto": bfloat16 where the accelerator has it, else float32."""
    threads: NotNegative = 0
    """CPU threads of torch. 0: one for "tiny" (more make it slower), else one for each core."""
    lora: Annotated[LoraConfig | None, BeforeValidator(_adapter_shorthand)] = None
    """Train adapters of this shape. Unset: train every weight."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


class TaskConfig(Section):
    """One source of questions in the mixture."""

    name: Annotated[str, Field(min_length=1)]
    """A reasoning-gym generator, "gsm8k", "jsonl", or a preset such as "sapo"."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the questions, relative to the other tasks."""
    path: str | None = None
    """File or directory of a fixed set: the JSONL file, or a local copy of GSM8K."""
    check: Literal["exact", "math"] = "exact"
    """How answers of a JSONL file are compared: as text, or as mathematics (math-verify)."""
    params: dict[str, JsonValue] = {}
    """Parameters of a reasoning-gym generator."""


class GameConfig(Section):
    """What a round is."""

    kind: Literal["sampling", "study-group"] = "sampling"
    """"sampling": one stage, I local groups and J of peers (swarm sampling, arXiv 2509.08721). "study-group": answer,
    critique the answers, resolve what is right; a step for each."""
    role: Literal["none", "pirate", "knight", "mobster", "announcer", "founder", "random"] = "none"
    """How the node speaks in "study-group"; "random": another for each question."""
    rounds: NotNegative = 0
    """Rounds in the node's whole life. 0: until stopped."""
    groups: Positive = 8
    """I: questions a round, each answered by a whole group."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G: completions of one question."""
    partial_credit: bool = False
    """Reward what the verifier gives for near misses. Off: 1 for a right answer, 0 for any other."""


class GenerationConfig(Section):
    """How completions are sampled."""

    max_prompt_tokens: Positive = 1024
    """A question whose prompt is longer is skipped with a warning; prompts are never cut."""
    max_completion_tokens: Positive = 512
    """Length at which a completion is cut."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature; the loss scores the same distribution."""
    batch: Positive = 64
    """Completions generated at a time."""


class TrainConfig(Section):
    """GRPO (arXiv 2402.03300) with token-level normalisation (DAPO, arXiv 2503.14476)."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate of AdamW."""
    warmup_steps: NotNegative = 10
    """Steps over which the learning rate rises; it is constant afterwards, as a node has no planned end."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    micro_batch: Positive = 4
    """Rows of one forward and backward pass. Changes memory and speed, not the loss."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the importance ratio."""
    epsilon_high: Annotated[float, Field(gt=0)] = 0.28
    """Upper clip of the importance ratio (clip-higher, DAPO section 3.1)."""
    delta: Annotated[float, Field(gt=1)] = 4.0
    """Two-sided clip: the largest ratio for negative advantages, on rows served elsewhere."""
    max_lag: NotNegative = 4
    """Rows of the node's own policy older than this many steps are dropped."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL penalty on own rows. 0: no reference model, and `kl` is null."""
    off_policy_weight: Annotated[float, Field(ge=0)] = 1.0
    """λ: weight of the loss of foreign rows beside that of own rows."""
    peer_loss: Literal["positive", "sapo", "f_tis"] = "positive"
    """What is learned from peers' groups: positive advantages only, both signs (arXiv 2509.08721), or
    filtered truncated importance sampling (arXiv 2605.22537)."""
    teacher_loss: Literal["gated", "luffy"] = "gated"
    """What is learned from a teacher's verified text: weighted likelihood, or policy shaping (arXiv 2504.14945)."""


class EvalConfig(Section):
    """The node's own policy, greedy, on questions it never trains on."""

    every: NotNegative = 20
    """Rounds between evaluations; there is always one before and one after. 0: only those two."""
    questions: Positive = 200
    """Held-out questions, known to this node alone."""


class CheckpointConfig(Section):
    """What survives a crash. Between checkpoints the journal carries every step."""

    every: Positive = 10
    """Rounds between checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Checkpoints kept: should the newest be damaged, the one before is used."""


class WarmupConfig(Section):
    """Supervised text before the first round. Only for the model "tiny", which would know nothing else, and for the
    task spell_backward."""

    steps: NotNegative = 0
    """Optimizer steps. 0: none."""
    batch: Positive = 64
    """Demonstrations a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of the warm-up alone."""


class ReportConfig(Section):
    """Where metrics go besides events.jsonl."""

    to: list[Literal["tensorboard", "wandb"]] = []
    """Any of "tensorboard" (files in the node's directory) and "wandb"."""


class LimitsConfig(Section):
    """What offloading may cost, and how fast it may ask."""

    usd: Annotated[float, Field(gt=0)] | Literal["unlimited"] = 5.00
    """Dollars that this node may spend in its whole life, at all providers together. "unlimited" lifts the cap."""
    usd_per_day: Annotated[float, Field(gt=0)] | None = None
    """Dollars a day (UTC). Unset: only the cap for the whole life counts."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64
    """Requests in flight. Fewer after the service asks to slow down, and slowly more again."""
    requests_per_minute: Positive | None = None
    """A limit that the service states. Unset: what its answers say."""
    tokens_per_minute: Positive | None = None
    """The same for tokens, of prompts and completions together."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Seconds that one request may take."""

    @property
    def capped(self) -> bool:
        """Whether there is a cap to keep: then every price must be known, and every completion bounded."""
        return self.usd != "unlimited" or self.usd_per_day is not None


class PriceConfig(Section):
    """What a provider's model costs, where the price is not known here or is not what one pays."""

    input: Annotated[float, Field(ge=0)]
    """Dollars for a million prompt tokens."""
    output: Annotated[float, Field(ge=0)]
    """Dollars for a million completion tokens, hidden reasoning included."""


class OffloadConfig(Section):
    """Generation of rollouts by an OpenAI-compatible API. See OFFLOAD_API.md."""

    provider: Annotated[str, Field(min_length=1)] = "off"
    """A row of the provider table, or a [providers.NAME] of one's own. "off": this machine generates."""
    model: str | None = None
    """The model to ask. Unset: the provider's default."""
    kind: Literal["auto", "policy", "policy_text", "teacher", "relay"] = "auto"
    """What the API's text is, and so what is learned from it. "auto": a teacher."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of each group that the API fills; this machine fills the rest."""
    when: Literal["always", "failed"] = "always"
    """"failed": this machine samples whole groups, and the API is asked only where none of them is right."""
    stages: Annotated[list[Literal["answer", "critique", "resolve"]], Field(min_length=1)] = ["answer"]
    """Stages in which the API generates. "sampling" has "answer" alone."""
    rounds: Annotated[str, Field(pattern=r"^(\*|every [1-9]\d*|\d+(-\d*)?(,\d+(-\d*)?)*)$")] = "*"
    """Rounds in which the API generates: "*", "0-9,20-29", "100-" or "every 3"."""
    fallback: list[str] = ["local"]
    """Who generates while the provider cannot, in order: providers, or "local". []: wait until it can."""
    on_limit: Literal["stop", "local"] = "stop"
    """What happens when a cap is reached. Never another paid provider."""
    ahead: Annotated[int, Field(ge=0, le=64)] | None = None
    """Rounds whose completions are asked for while the step before them is still being trained. Unset: 2; 16 in
    batches."""
    batch: bool = False
    """Ask through the provider's Batch API: half the price, answers within 24 hours."""
    key: Literal["auto", "key_file", "environment", "credentials", "keyring", "file"] = "auto"
    """The one place the key may come from. "auto": the first that has one."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """How much a reasoning model thinks. Unset: the service's own default."""
    reasoning_tokens: NotNegative = 2048
    """Tokens a reasoning model may think, beside generation.max_completion_tokens for its answer."""
    limits: LimitsConfig = LimitsConfig()
    prices: dict[str, PriceConfig] = {}
    """Prices by provider, before those that are known here."""


class ProviderConfig(Section):
    """An OpenAI-compatible service that is no row of the provider table."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")]
    """What the API's paths are appended to, such as http://192.168.1.20:8000/v1."""
    model: str | None = None
    """The model to ask for when offload.model is unset."""
    needs_key: bool = False
    """Whether it wants a key: swarmctl keys set NAME --host URL."""
    group: Literal["n", "fan_out"] = "fan_out"
    """How a group is asked for: one request for several choices, or a request each."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The parameter that bounds a completion."""
    free: bool = False
    """It runs on machines of one's own and costs nothing. Else its price stands in [offload.prices.NAME]."""
    batch: bool = False
    """It has OpenAI's Batch API, at half the price."""
    training: Literal["allowed", "restricted", "model", "unknown"] = "unknown"
    """Whether its terms let output be trained on; "model": as the model's licence says."""


class SwarmConfig(Section):
    """The swarm that the node belongs to, and how it is reached. Alone unless ``join`` says otherwise."""

    join: Annotated[str, Field(pattern=r"^(swarm1:[0-9a-f]{64}(@[A-Za-z0-9/._:-]+(,[A-Za-z0-9/._:-]+)*)?)?$")] = ""
    """An invitation, swarm1:HASH@ADDRESS,…: it stands for the swarm's charter, which fixes tasks and game. Empty: the
    node plays alone."""
    external: NotNegative | None = None
    """J: groups of peers that a step of the game "sampling" learns from. Unset: as many as game.groups."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on. 0: one that is free at the first start, and kept."""
    announce: list[str] = []
    """Addresses under which others reach this node, as /ip4/203.0.113.7/tcp/4001. Empty: those of this machine."""
    loopback: bool = False
    """Listen on this machine alone."""
    relay: bool = True
    """Let peers with a public address pass on connections to nodes that cannot be reached directly."""

    @property
    def charter(self) -> str | None:
        """The swarm's id: SHA-256 (hex) of its charter. None: no swarm."""
        return self.join.removeprefix("swarm1:").partition("@")[0] or None


class HubConfig(Section):
    """Where the trained model goes, with a card that says what it learned from. Nothing goes anywhere unless named."""

    repo: Annotated[str, Field(pattern=_REPOSITORY, max_length=96)] = ""
    """Repository on the Hugging Face hub, OWNER/NAME; it is made if there is none. Empty: nothing is pushed."""
    every: NotNegative = 0
    """Rounds between pushes; there is always one after the last round. 0: only that one."""
    private: bool = True
    """Whether a repository that is made here is private. One that is there stays as it is."""


def _task_shorthand(value: Any) -> Any:
    """Let ``tasks = ["sapo"]``, ``"sapo,gsm8k"`` and ``"questions.jsonl"`` stand for tables."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [_task_table(entry) if isinstance(entry, str) else entry for entry in value]
    return value


def _task_table(text: str) -> dict[str, str]:
    return {"name": "jsonl", "path": text} if text.endswith(".jsonl") else {"name": text}


class Config(Section):
    """Everything a node needs to run, resolved."""

    node: NodeConfig = NodeConfig()
    model: ModelConfig = ModelConfig()
    tasks: Annotated[list[TaskConfig], BeforeValidator(_task_shorthand), Field(min_length=1)] = [
        TaskConfig(name="sapo")
    ]
    game: GameConfig = GameConfig()
    generation: GenerationConfig = GenerationConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    warmup: WarmupConfig = WarmupConfig()
    report: ReportConfig = ReportConfig()
    offload: OffloadConfig = OffloadConfig()
    providers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")], ProviderConfig] = {}
    hub: HubConfig = HubConfig()
    swarm: SwarmConfig = SwarmConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup.steps and self.model.name != "tiny":
            raise ValueError('warmup.steps is for model.name = "tiny" alone: set it to 0, or take another profile')
        if self.hub.repo and not (self.hub.every or self.game.rounds):
            raise ValueError("hub.repo needs hub.every or game.rounds: a node without a last round never pushes")
        if self.hub.repo and self.offload.kind == "relay":
            raise ValueError('hub.repo is for a model that is trained, and offload.kind = "relay" trains none')
        if self.game.kind == "sampling" and set(self.offload.stages) != {"answer"}:
            raise ValueError('offload.stages names critique or resolve, and only game.kind = "study-group" has those')
        if self.game.kind == "sampling" and self.game.role != "none":
            raise ValueError('game.role is for game.kind = "study-group" alone')
        taken = sorted({*self.providers} & {*PROVIDERS, "off", "local"})
        if taken:
            raise ValueError(f"providers.{taken[0]} is a name that is taken; a provider of your own needs another")
        return self


def charter_id(config: Config) -> str:
    """Return the id of the node's swarm. Of a lone node: SHA-256 (hex) over what its questions follow from, tasks and
    seed, as canonical JSON."""
    if config.swarm.charter is not None:
        return config.swarm.charter
    rules = {"tasks": [task.model_dump(mode="json") for task in config.tasks], "seed": config.node.seed}
    return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


OFF = "off"
