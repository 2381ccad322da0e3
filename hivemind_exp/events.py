"""The node's log for machines: ``events.jsonl``, one JSON object a line, read by every display.

Each line has ``t`` (Unix seconds), ``event``, and the fields of one of the models below, in their order. The table in
``docs/events.md`` is made from them: ``python -m tools.events``. A new event is one more model here; a display that
does not know it leaves it alone.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """Something that happened to a node. The class ``EvalEvent`` is the event ``eval``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True, defer_build=True
    )

    @classmethod
    def event_name(cls) -> str:
        """Return the value of ``event`` in the log."""
        return cls.__name__.removesuffix("Event").lower()


class StartEvent(Event):
    """The node is built; rounds follow."""

    node: str
    """The node's name."""
    tasks: list[str]
    """Names of its tasks."""
    seed: int
    """The node's seed."""
    rounds: int
    """Rounds planned for the node's whole life; 0: until stopped."""
    groups: int
    """Groups of completions a round."""
    group_size: int
    """Completions a group."""
    model: str | None = None
    """Model that is trained; null in a relay, as are the next five."""
    device: str | None = None
    """Device that it is on."""
    dtype: str | None = None
    """Type of its weights."""
    accelerator: str | None = None
    """Name of the accelerator; null also on a CPU."""
    parameters: int | None = None
    """Weights of the model."""
    trainable: int | None = None
    """Weights that are trained."""
    resumed_round: int | None = None
    """Rounds finished before this start; null for a new node."""


class PhaseEvent(Event):
    """Something has begun, or got further, that is no round."""

    name: str
    """What is going on, for people."""
    done: int | None = None
    """Parts done; null when unknown."""
    total: int | None = None
    """Parts in all; null when unknown."""


class RoundEvent(Event):
    """A round is finished."""

    round: int
    """The round, counted from 0."""
    rounds: int
    """Rounds planned; 0: until stopped."""
    seconds: dict[str, float]
    """Wall time by part: `generate`, `verify`, `train`, `share` and `other`."""
    tokens_per_second: float | None = None
    """Tokens generated a second; null where an API generated: it may have done so long before."""


class RolloutsEvent(Event):
    """What one kind of source made in a stage of a round, verified here."""

    round: int
    """The round, counted from 0."""
    stage: str
    """The stage of the round."""
    source: str
    """The kind of source; `policy` is the node's own model, on this machine."""
    count: int
    """Completions."""
    correct: int
    """Completions that are right."""
    reward: float | None = None
    """Mean outcome; null without completions."""
    reward_std: float | None = None
    """Standard deviation of the outcome over all completions; null without completions."""
    points: float | None = None
    """Mean of the summed terms of the reward; null in the game `sampling`, which has none."""
    completion_length: float | None = None
    """Mean length in tokens; null in a relay, which has no tokenizer."""
    truncated: int
    """Completions that were cut at the limit."""
    tokens: int | None = None
    """Tokens in all; null in a relay."""
    lag: float | None = None
    """Mean number of optimizer steps between asking for a completion and learning from it; null when unknown."""


class StepEvent(Event):
    """An optimizer step, once for each kind of source that it learned from."""

    step: int
    """The step, counted from 0."""
    round: int
    """The round, counted from 0."""
    stage: str
    """The stage of the round."""
    loss: float | None
    """The step's loss; null where it was not finite."""
    grad_norm: float | None
    """Norm of the gradient before clipping; null where it was not finite: the step was left out, with a warning."""
    learning_rate: float
    """The step's learning rate."""
    tokens: int
    """Completion tokens that weighed something."""
    rows: int
    """Completions that weighed something."""
    entropy: float | None = None
    """Of the policy, in nats a token; null where no row weighed anything."""
    clip_fraction: float | None = None
    """Share of tokens whose importance ratio was clipped; null where no row weighed anything."""
    kl: float | None = None
    """Divergence from the reference model, in nats a token; null unless `train.beta` is above 0."""
    filtered: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    """Rows left out, as this node would hardly write them; absent unless `source` is `peer`."""
    source: str
    """The kind of source."""
    replayed: bool
    """Whether the step was repeated after a crash."""


class EvalEvent(Event):
    """The node's own model answered held-out questions."""

    round: int
    """Rounds finished."""
    accuracy: float
    """Share of questions answered right, 0 to 1."""
    questions: int
    """Questions asked."""
    split: str = "heldout"
    """Where they are from: `heldout`, never trained on."""


class CheckpointEvent(Event):
    """A checkpoint was written."""

    round: int
    """Rounds finished."""
    path: str
    """Its directory."""
    seconds: float
    """Wall time that writing took."""


class OffloadEvent(Event):
    """An API is going to be asked. Only with a provider."""

    provider: str
    """The first provider that is asked."""
    model: str
    """Model that is asked for."""
    host: str
    """Where requests go."""
    kind: str
    """The kind of source that its completions are."""
    loss: str
    """What is learned from them, as a sentence."""
    training: str
    """Whether the provider's terms allow training on its output."""
    usd_per_million_input: float
    """US dollars per million tokens of prompts."""
    usd_per_million_output: float
    """US dollars per million tokens of completions."""
    usd_total: float
    """US dollars spent in the node's whole life, reserves included."""
    usd_cap: float | None = None
    """Most US dollars that the node may spend; null: unlimited."""


class SpendEvent(Event):
    """What a round used of one model of one provider. Only with a provider."""

    round: int
    """The round, counted from 0; -1: the test request at the start."""
    provider: str
    """Who was asked."""
    model: str
    """Model that was asked for."""
    requests: int
    """Requests that cost something, or may have."""
    tokens: int
    """Tokens of prompts and completions."""
    prompt_tokens: int
    """Tokens of prompts."""
    completion_tokens: int
    """Tokens of completions, hidden reasoning included."""
    lost: int
    """Completions given up."""
    usd: float
    """US dollars for this."""
    usd_total: float
    """US dollars spent in the node's whole life, reserves included."""
    usd_cap: float | None = None
    """Most US dollars that the node may spend; null: unlimited."""


class PushEvent(Event):
    """A model has reached the hub."""

    round: int
    """Rounds finished when it was saved."""
    repo: str
    """Repository on the hub."""
    url: str
    """Address of the commit."""
    seconds: float
    """Wall time of the upload."""


class ShareEvent(Event):
    """A round's groups went to peers. Only in a swarm."""

    round: int
    """The round, counted from 0."""
    groups: int
    """Groups that went to peers."""
    bytes: int
    """Size of the bundle that went to peers."""
    unused: dict[str, int]
    """Peers' groups and bundles since the last round that were of no use: how many for which reason."""


class PeersEvent(Event):
    """The number of peers in touch has changed. Only in a swarm."""

    peers: int
    """Peers that gave a sign of life within two minutes."""
    neighbours: int
    """Peers in the routing table of the DHT."""


class WarningEvent(Event):
    """Something is wrong, and the node goes on."""

    code: str
    """A short name for programs."""
    message: str
    """What is wrong, for people."""


class ErrorEvent(Event):
    """Something is wrong that ends the node, or needs its operator."""

    code: str
    """A short name for programs."""
    message: str
    """What is wrong, for people."""
    next: str | None = None
    """A command to type; null where none helps."""


class StopEvent(Event):
    """The node ends."""

    reason: str
    """`done`, `signal`, `limit` or `error`."""
    next: str | None = None
    """A command to type, or null."""
    round: int | None = None
    """Rounds finished; null where it ended before that was known."""
    steps: int | None = None
    """Optimizer steps finished; null as above."""
    checkpoint: str | None = None
    """Directory of the newest checkpoint; null where there is none."""


EVENTS: dict[str, type[Event]] = {model.event_name(): model for model in Event.__subclasses__()}
"""The models by the events' names."""


class Emit(Protocol):
    """Anything that takes an event."""

    def __call__(self, event: Event, /) -> None: ...


def discard(_event: Event, /) -> None:
    """Leave an event unwritten: for whoever has no log."""


class EventLog:
    """Appends events to a file, one write a line, so that a reader never sees half of one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __call__(self, event: Event, /) -> None:
        known = _finite({"t": round(time.time(), 3), "event": event.event_name(), **event.model_dump()})
        line = json.dumps(known, ensure_ascii=True, allow_nan=False)
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def _finite(value: Any) -> Any:
    """Return a JSON-like value with null for numbers that JSON does not have: a diverging loss must not end a node."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
