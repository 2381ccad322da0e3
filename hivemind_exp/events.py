"""The node's machine-readable log: ``events.jsonl``, one JSON object per line. Every display reads it.

Each line has ``t`` (Unix seconds), ``event``, and the fields of one of the models below, in their order.
``python -m tools.generate`` writes them into ``docs/events.md``. A display ignores events that it does not know.
"""

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """Something that happened to a node. The class ``EvalEvent`` defines the event ``eval``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    @classmethod
    def event_name(cls) -> str:
        """Return the value of ``event`` in the log."""
        return cls.__name__.removesuffix("Event").lower()


class StartEvent(Event):
    """Setup is finished; the rounds begin."""

    node: str = Field(description="The node's name.")
    tasks: list[str] = Field(description="Names of the node's tasks.")
    seed: int = Field(description="The node's seed.")
    rounds: int = Field(description="Rounds planned for the node's whole life; 0 means until you stop it.")
    groups: int = Field(description="Groups of completions per round.")
    group_size: int = Field(description="Completions per group.")
    completion_tokens: int | None = Field(
        None, description="Most tokens of a completion that this machine generates; null if an API generates them all."
    )
    model: str | None = Field(
        None, description="The model being trained. In a relay, this and the next six fields are null."
    )
    device: str | None = Field(None, description="Device that the model is on, as you named it, such as `cuda:1`.")
    processes: int | None = Field(None, description="Processes that train the model, on GPUs with one GPU each.")
    dtype: str | None = Field(None, description="Data type of the model's weights.")
    accelerator: str | None = Field(None, description="Name of the accelerator; also null on a CPU.")
    parameters: int | None = Field(None, description="Number of weights in the model.")
    trainable: int | None = Field(None, description="Number of weights that are trained.")
    resumed_round: int | None = Field(None, description="Rounds finished before this start; null for a new node.")
    checkpoint_round: int | None = Field(
        None, description="Rounds in the checkpoint that is loaded; later ones are repeated from the journal."
    )


class PhaseEvent(Event):
    """Work outside the rounds (loading, warming up, evaluating), or long work in one, started or made progress."""

    name: str = Field(description="Human-readable name of the work.")
    done: int | None = Field(None, description="Parts done; null if unknown.")
    total: int | None = Field(None, description="Parts in total; null if unknown.")
    percent: bool = Field(False, description="Whether the parts are percent of the work.")
    round: int | None = Field(
        None, description="The round that the work belongs to, counted from 0; null outside the rounds."
    )


class RoundEvent(Event):
    """A round is finished."""

    round: int = Field(description="The round, counted from 0.")
    rounds: int = Field(description="Rounds planned; 0 means until you stop it.")
    seconds: dict[str, float] = Field(
        description="Wall time by part: `generate`, `verify`, `train`, `share` and `other`."
    )
    tokens_per_second: float | None = Field(
        None,
        description="Tokens generated per second; null if an API generated them, possibly long before this round.",
    )
    groups: int | None = Field(
        None,
        description="Groups of answers with completions from the node's own model, including those for further "
        "questions (`game.refill`); null in a relay.",
    )
    different: int | None = Field(
        None,
        description="Those of `groups` that teach something: the rewards differ, or another source's completion is "
        "better than the node's own. Null in a relay.",
    )


class RolloutsEvent(Event):
    """Completions from one kind of source in one stage of a round, verified on this node."""

    round: int = Field(description="The round, counted from 0.")
    stage: str = Field(description="The stage of the round.")
    source: str = Field(description="The kind of source; `policy` is the node's own model.")
    count: int = Field(description="Number of completions.")
    correct: int = Field(description="Number of correct completions.")
    reward: float | None = Field(None, description="Mean outcome; null if there are no completions.")
    reward_std: float | None = Field(
        None, description="Standard deviation of the outcome over all completions; null if there are no completions."
    )
    points: float | None = Field(
        None, description="Mean sum of the reward terms; null if the reward is the outcome alone."
    )
    terms: dict[str, float] | None = Field(
        None, description="Mean of each reward term by name; null if the reward is the outcome alone."
    )
    completion_length: float | None = Field(
        None, description="Mean length in tokens; null in a relay, which has no tokenizer."
    )
    truncated: int = Field(description="Completions cut off at the length limit.")
    tokens: int | None = Field(None, description="Tokens in total; null in a relay.")
    lag: float | None = Field(
        None,
        description="Mean number of optimizer steps between requesting a completion and learning from it; null if "
        "unknown.",
    )


class StepEvent(Event):
    """An optimizer step: one event per kind of source that it learned from."""

    step: int = Field(description="The step, counted from 0.")
    round: int = Field(description="The round, counted from 0.")
    stage: str = Field(description="The stage of the round.")
    loss: float | None = Field(description="The step's loss; null if it was not finite.")
    grad_norm: float | None = Field(
        description="Norm of the gradient before clipping; null if it was not finite. Such a step is skipped with a "
        "warning."
    )
    learning_rate: float = Field(description="The step's learning rate.")
    tokens: int = Field(description="Completion tokens with nonzero weight.")
    rows: int = Field(description="Completions with nonzero weight.")
    entropy: float | None = Field(
        None,
        description="Entropy of the policy, in nats per token, over completions with nonzero weight; null if none has.",
    )
    clip_fraction: float | None = Field(
        None,
        description="Share of tokens whose importance weight was clipped. Null if no completion has importance "
        "weights: only completions sampled elsewhere with known log-probabilities have them.",
    )
    kl: float | None = Field(
        None, description="Divergence from the reference model, in nats per token; null unless `train.beta` is above 0."
    )
    source_grad_norm: float | None = Field(
        None,
        description="Norm of the gradient from this source's completions alone, before clipping, measured on an evenly "
        "spaced sample if more than 16 million weights are trained. Null without such completions and in steps "
        "replayed from older versions that mixed several sources.",
    )
    nll: float | None = Field(
        None,
        description="Negative log-likelihood of a teacher's or peers' completions with nonzero weight under the node's "
        "model, in nats per token; null for the node's own.",
    )
    reverse_kl: float | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Log-probability of a sampled token under the node's model minus that under the teacher, limited "
        "to ±5 nats; the mean over tokens. It estimates the reverse KL divergence. Absent unless a teacher scored "
        "completions.",
    )
    filtered: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Completions left out because this node's model would be very unlikely to write them; absent "
        "unless `source` is `peer`.",
    )
    source: str = Field(description="The kind of source.")
    source_rows: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="The part of `rows` that is from this source. Absent in older events.",
    )
    replayed: bool = Field(description="Whether the step was repeated after a crash.")


class EvalEvent(Event):
    """The node's own model answered held-out questions."""

    round: int = Field(description="Rounds finished.")
    accuracy: float = Field(description="Share of questions answered correctly, 0 to 1.")
    questions: int = Field(description="Number of questions asked.")
    split: str = Field("heldout", description="Where the questions come from: `heldout`, never trained on.")


class CalibrationEvent(Event):
    """A new node chose its prompt style, or measured the style that is set. Happens once in a node's life."""

    style: str = Field(description="The prompt style, in words.")
    form: str = Field(description="What prompts ask for, as `prompt.style`.")
    examples: int = Field(description="Examples that each prompt shows.")
    system: bool = Field(description="Whether the instruction is a system turn.")
    thinking: bool | None = Field(description="Thinking mode of the chat template; null if it is the default.")
    tried: int = Field(description="Styles tried; 1 if `prompt.style` is set.")
    questions: int = Field(description="Questions that the style answered with greedy decoding.")
    samples: int = Field(description="Completions per question that measured sampling.")
    right: float = Field(description="Share of questions answered correctly with greedy decoding.")
    sampled: float = Field(description="Share of sampled completions that are correct.")
    readable: float = Field(description="Share of sampled completions with a readable answer.")
    ended: float = Field(description="Share of sampled completions that ended within the length limit.")
    completion_length: float = Field(description="Mean length of a sampled completion, in tokens.")
    tasks: dict[str, dict[str, float]] = Field(
        description="By task: `questions`, `right`, `sampled`, and `differing`, the share of groups with both correct "
        "and wrong completions. Only such groups teach. With `game.curriculum`, on the easiest level."
    )
    levels: dict[str, int] = Field({}, description="By task, the level at which `game.curriculum` starts, from 0 on.")
    completions: int = Field(description="Completions generated, for all styles.")
    tokens: int = Field(description="Tokens generated, for all styles.")


class CurriculumEvent(Event):
    """A task's share of the questions changed by 5 points, or its level of difficulty. Only with `game.curriculum`."""

    round: int = Field(description="The first round with these shares, counted from 0.")
    tasks: dict[str, dict[str, int | float | None]] = Field(
        description="By task: `share` of the questions; `differing`, the share of its latest `groups` with both "
        "correct and wrong completions, null if there are none; `level` of difficulty, from 0 on, of so many `levels`, "
        "null if the task has none."
    )


class CheckpointEvent(Event):
    """A checkpoint was written."""

    round: int = Field(description="Rounds finished.")
    path: str = Field(description="The checkpoint's directory.")
    seconds: float = Field(description="Wall time spent writing it.")


class OffloadEvent(Event):
    """The node is about to use an API. Only with a provider."""

    provider: str = Field(description="The provider that is used first.")
    model: str = Field(description="The model requested.")
    host: str = Field(description="Host that requests go to; of several replicas, all, separated by commas.")
    kind: str = Field(description="The kind of source that its completions count as.")
    loss: str = Field(description="What the node learns from the completions, as a sentence.")
    training: str = Field(description="Whether the provider's terms allow training on its output.")
    usd_per_million_input: float = Field(description="US dollars per million prompt tokens.")
    usd_per_million_output: float = Field(description="US dollars per million completion tokens.")
    usd_total: float = Field(description="US dollars spent in the node's whole life, without open reserves.")
    usd_reserved: float = Field(0.0, description="US dollars reserved for requests in flight.")
    usd_cap: float | None = Field(None, description="The most US dollars the node may spend; null means unlimited.")


class SpendEvent(Event):
    """Usage of one provider's model for a round, since the last such event of that round. Only with a provider."""

    round: int = Field(description="The round, counted from 0; -1 for the test request at the start.")
    provider: str = Field(description="The provider used.")
    model: str = Field(description="The model requested.")
    requests: int = Field(description="Requests that cost money, or may have cost money.")
    tokens: int = Field(description="Prompt and completion tokens.")
    prompt_tokens: int = Field(description="Prompt tokens.")
    completion_tokens: int = Field(description="Completion tokens, including hidden reasoning.")
    lost: int = Field(description="Requested completions that the node gave up on.")
    usd: float = Field(description="US dollars spent on this usage.")
    usd_total: float = Field(description="US dollars spent in the node's whole life, without open reserves.")
    usd_reserved: float = Field(0.0, description="US dollars reserved for requests in flight.")
    usd_cap: float | None = Field(None, description="The most US dollars the node may spend; null means unlimited.")


class PushEvent(Event):
    """A model was pushed to the hub."""

    round: int = Field(description="Rounds finished when the model was saved.")
    repo: str = Field(description="Repository on the hub.")
    url: str = Field(description="URL of the commit.")
    seconds: float = Field(description="Wall time of the upload.")


class ShareEvent(Event):
    """The node shared a round's groups with peers. Only in a swarm."""

    round: int = Field(description="The round, counted from 0.")
    groups: int = Field(description="Groups shared with peers.")
    bytes: int = Field(description="Size of the bundle shared with peers, in bytes.")
    unused: dict[str, int] = Field(
        description="How many of the peers' groups and bundles were not used since the last round, by reason."
    )


class PeersEvent(Event):
    """The number of active peers changed. Only in a swarm."""

    peers: int = Field(description="Peers heard from in the last two minutes.")
    neighbours: int = Field(description="Peers in the DHT's routing table.")


class WorkersEvent(Event):
    """Task workers were killed, crashed or got stuck. New ones repeated their work."""

    replaced: int = Field(description="Workers replaced.")
    unverified: int = Field(
        description="Completions that are left out of the step, because several workers in a row failed on them."
    )


class JudgeEvent(Event):
    """A judge graded the node's own completions."""

    round: int = Field(description="The round, counted from 0.")
    graded: int = Field(description="Completions with a grade.")
    ungraded: int = Field(description="Completions without a grade from 0 to 10. They get their group's mean.")
    grade: float | None = Field(description="Mean grade, from 0 to 10; null if there is none.")


class HintsEvent(Event):
    """The node used hints from an API in a round. Only with `offload.teach = "hints"`."""

    round: int = Field(description="The round, counted from 0.")
    hints: int = Field(description="Hints received: one per question that the node got wrong in all its completions.")
    refused: int = Field(description="Hints not used, such as those that contain the answer.")
    solved: int = Field(description="Questions that the node then answered correctly at least once.")
    taught: int = Field(description="Questions that the node learned from.")


class ScoresEvent(Event):
    """A teacher scored the tokens of the node's own completions. Only with `offload.teach = "distillation"`."""

    round: int = Field(description="The round, counted from 0.")
    scored: int = Field(description="Completions with scores.")
    unscored: int = Field(description="Completions without scores. The node learns from them without the teacher.")


class NoteEvent(Event):
    """Something worth knowing that is not a problem."""

    code: str = Field(description="Short code for programs.")
    message: str = Field(description="What happened, for people.")


class WarningEvent(Event):
    """A problem that does not stop the node."""

    code: str = Field(description="Short code for programs.")
    message: str = Field(description="What is wrong, for people.")
    provider: str | None = Field(None, description="The provider that the warning is about; null for other warnings.")
    judge: bool = Field(False, description="Whether it is about that provider as the judge (`[judge]`).")
    fallback: str | None = Field(
        None,
        description="With `provider_down`, what generates until `provider_back`: `local` or a provider; null if the "
        "node waits.",
    )
    set_aside: str | None = Field(
        None,
        description="With `provider_down`, why this run does not ask the provider again; null if it does.",
    )
    next: str | None = Field(
        None, description="With `provider_down`: the command that saves another key. Null unless the key was rejected."
    )


class ErrorEvent(Event):
    """A problem that stops the node or needs your attention."""

    code: str = Field(description="Short code for programs.")
    message: str = Field(description="What is wrong, for people.")
    next: str | None = Field(None, description="A command that helps; null if there is none.")


class StopEvent(Event):
    """The node stops."""

    reason: str = Field(description="Why it stops: `done`, `signal`, `limit` or `error`.")
    next: str | None = Field(None, description="Suggested next command, or null.")
    round: int | None = Field(None, description="Rounds finished; null if the node stopped before it knew.")
    steps: int | None = Field(None, description="Optimizer steps finished; null if the node stopped before it knew.")
    checkpoint: str | None = Field(None, description="Directory of the newest checkpoint; null if there is none.")


EVENTS: dict[str, type[Event]] = {model.event_name(): model for model in Event.__subclasses__()}
"""The models by event name."""


Emit = Callable[[Event], None]
"""A callable that receives events."""


def discard(_event: Event, /) -> None:
    """Drop an event, for callers without a log."""
