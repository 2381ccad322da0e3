"""The node's log for machines: ``events.jsonl``, one JSON object a line, read by every display.

Each line has ``t`` (Unix seconds), ``event``, and the fields of one of the models below, in their order. The table in
``docs/events.md`` is made from them: ``python -m tools.events``. A new event is one more model here; a display that
does not know it leaves it alone.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """Something that happened to a node. The class ``EvalEvent`` is the event ``eval``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    @classmethod
    def event_name(cls) -> str:
        """Return the value of ``event`` in the log."""
        return cls.__name__.removesuffix("Event").lower()


class StartEvent(Event):
    """The node is built; rounds follow."""

    node: str = Field(description="The node's name.")
    tasks: list[str] = Field(description="Names of its tasks.")
    seed: int = Field(description="The node's seed.")
    rounds: int = Field(description="Rounds planned for the node's whole life; 0: until stopped.")
    groups: int = Field(description="Groups of completions a round.")
    group_size: int = Field(description="Completions a group.")
    model: str | None = Field(None, description="Model that is trained; null in a relay, as are the next five.")
    device: str | None = Field(None, description="Device that it is on.")
    dtype: str | None = Field(None, description="Type of its weights.")
    accelerator: str | None = Field(None, description="Name of the accelerator; null also on a CPU.")
    parameters: int | None = Field(None, description="Weights of the model.")
    trainable: int | None = Field(None, description="Weights that are trained.")
    resumed_round: int | None = Field(None, description="Rounds finished before this start; null for a new node.")


class PhaseEvent(Event):
    """Something has begun, or got further, that is no round."""

    name: str = Field(description="What is going on, for people.")
    done: int | None = Field(None, description="Parts done; null when unknown.")
    total: int | None = Field(None, description="Parts in all; null when unknown.")


class RoundEvent(Event):
    """A round is finished."""

    round: int = Field(description="The round, counted from 0.")
    rounds: int = Field(description="Rounds planned; 0: until stopped.")
    seconds: dict[str, float] = Field(
        description="Wall time by part: `generate`, `verify`, `train`, `share` and `other`."
    )
    tokens_per_second: float | None = Field(
        None, description="Tokens generated a second; null where an API generated: it may have done so long before."
    )


class RolloutsEvent(Event):
    """What one kind of source made in a stage of a round, verified here."""

    round: int = Field(description="The round, counted from 0.")
    stage: str = Field(description="The stage of the round.")
    source: str = Field(description="The kind of source; `policy` is the node's own model, on this machine.")
    count: int = Field(description="Completions.")
    correct: int = Field(description="Completions that are right.")
    reward: float | None = Field(None, description="Mean outcome; null without completions.")
    reward_std: float | None = Field(
        None, description="Standard deviation of the outcome over all completions; null without completions."
    )
    points: float | None = Field(
        None, description="Mean of the summed terms of the reward; null in the game `sampling`, which has none."
    )
    completion_length: float | None = Field(
        None, description="Mean length in tokens; null in a relay, which has no tokenizer."
    )
    truncated: int = Field(description="Completions that were cut at the limit.")
    tokens: int | None = Field(None, description="Tokens in all; null in a relay.")
    lag: float | None = Field(
        None,
        description="Mean number of optimizer steps between asking for a completion and learning from it; null when "
        "unknown.",
    )


class StepEvent(Event):
    """An optimizer step, once for each kind of source that it learned from."""

    step: int = Field(description="The step, counted from 0.")
    round: int = Field(description="The round, counted from 0.")
    stage: str = Field(description="The stage of the round.")
    loss: float | None = Field(description="The step's loss; null where it was not finite.")
    grad_norm: float | None = Field(
        description="Norm of the gradient before clipping; null where it was not finite: the step was left out, with "
        "a warning."
    )
    learning_rate: float = Field(description="The step's learning rate.")
    tokens: int = Field(description="Completion tokens that weighed something.")
    rows: int = Field(description="Completions that weighed something.")
    entropy: float | None = Field(
        None, description="Of the policy, in nats a token; null where no row weighed anything."
    )
    clip_fraction: float | None = Field(
        None, description="Share of tokens whose importance ratio was clipped; null where no row weighed anything."
    )
    kl: float | None = Field(
        None, description="Divergence from the reference model, in nats a token; null unless `train.beta` is above 0."
    )
    filtered: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Rows left out, as this node would hardly write them; absent unless `source` is `peer`.",
    )
    source: str = Field(description="The kind of source.")
    replayed: bool = Field(description="Whether the step was repeated after a crash.")


class EvalEvent(Event):
    """The node's own model answered held-out questions."""

    round: int = Field(description="Rounds finished.")
    accuracy: float = Field(description="Share of questions answered right, 0 to 1.")
    questions: int = Field(description="Questions asked.")
    split: str = Field("heldout", description="Where they are from: `heldout`, never trained on.")


class CheckpointEvent(Event):
    """A checkpoint was written."""

    round: int = Field(description="Rounds finished.")
    path: str = Field(description="Its directory.")
    seconds: float = Field(description="Wall time that writing took.")


class OffloadEvent(Event):
    """An API is going to be asked. Only with a provider."""

    provider: str = Field(description="The first provider that is asked.")
    model: str = Field(description="Model that is asked for.")
    host: str = Field(description="Where requests go.")
    kind: str = Field(description="The kind of source that its completions are.")
    loss: str = Field(description="What is learned from them, as a sentence.")
    training: str = Field(description="Whether the provider's terms allow training on its output.")
    usd_per_million_input: float = Field(description="US dollars per million tokens of prompts.")
    usd_per_million_output: float = Field(description="US dollars per million tokens of completions.")
    usd_total: float = Field(description="US dollars spent in the node's whole life, reserves included.")
    usd_cap: float | None = Field(None, description="Most US dollars that the node may spend; null: unlimited.")


class SpendEvent(Event):
    """What a round used of one model of one provider. Only with a provider."""

    round: int = Field(description="The round, counted from 0; -1: the test request at the start.")
    provider: str = Field(description="Who was asked.")
    model: str = Field(description="Model that was asked for.")
    requests: int = Field(description="Requests that cost something, or may have.")
    tokens: int = Field(description="Tokens of prompts and completions.")
    prompt_tokens: int = Field(description="Tokens of prompts.")
    completion_tokens: int = Field(description="Tokens of completions, hidden reasoning included.")
    lost: int = Field(description="Completions given up.")
    usd: float = Field(description="US dollars for this.")
    usd_total: float = Field(description="US dollars spent in the node's whole life, reserves included.")
    usd_cap: float | None = Field(None, description="Most US dollars that the node may spend; null: unlimited.")


class PushEvent(Event):
    """A model has reached the hub."""

    round: int = Field(description="Rounds finished when it was saved.")
    repo: str = Field(description="Repository on the hub.")
    url: str = Field(description="Address of the commit.")
    seconds: float = Field(description="Wall time of the upload.")


class ShareEvent(Event):
    """A round's groups went to peers. Only in a swarm."""

    round: int = Field(description="The round, counted from 0.")
    groups: int = Field(description="Groups that went to peers.")
    bytes: int = Field(description="Size of the bundle that went to peers.")
    unused: dict[str, int] = Field(
        description="Peers' groups and bundles since the last round that were of no use: how many for which reason."
    )


class PeersEvent(Event):
    """The number of peers in touch has changed. Only in a swarm."""

    peers: int = Field(description="Peers that gave a sign of life within two minutes.")
    neighbours: int = Field(description="Peers in the routing table of the DHT.")


class WarningEvent(Event):
    """Something is wrong, and the node goes on."""

    code: str = Field(description="A short name for programs.")
    message: str = Field(description="What is wrong, for people.")


class ErrorEvent(Event):
    """Something is wrong that ends the node, or needs its operator."""

    code: str = Field(description="A short name for programs.")
    message: str = Field(description="What is wrong, for people.")
    next: str | None = Field(None, description="A command to type; null where none helps.")


class StopEvent(Event):
    """The node ends."""

    reason: str = Field(description="`done`, `signal`, `limit` or `error`.")
    next: str | None = Field(None, description="A command to type, or null.")
    round: int | None = Field(None, description="Rounds finished; null where it ended before that was known.")
    steps: int | None = Field(None, description="Optimizer steps finished; null as above.")
    checkpoint: str | None = Field(None, description="Directory of the newest checkpoint; null where there is none.")


EVENTS: dict[str, type[Event]] = {model.event_name(): model for model in Event.__subclasses__()}
"""The models by the events' names."""


Emit = Callable[[Event], None]
"""Anything that takes an event."""


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
