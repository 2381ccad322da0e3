"""The settings of evaluations, checkpoints, the journal and reports."""

from typing import Annotated, Literal

from pydantic import Field

from hivemind_exp.settings_table import NotNegative, Positive, Section


class EvalConfig(Section):
    """Evaluation of the node's own policy, with greedy decoding, on questions it never trains on."""

    every: NotNegative = 20
    """Rounds between evaluations. There is always one before and one after training. 0: only those two."""
    questions: Positive = 200
    """Number of held-out questions, which only this node knows."""
    canary: bool = True
    """Whether a significant fall in accuracy restores the last good weights and quarantines the peers and providers
    that the node has learned from since. If it has learned only from itself, it just warns you."""


class CheckpointConfig(Section):
    """Checkpoints. Between them, the journal holds every step, so a crash loses none."""

    every: Positive = 10
    """Rounds between checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Checkpoints kept. If the newest is damaged, the one before it is used."""


class JournalConfig(Section):
    """The journal, which holds every prompt and completion."""

    keep_rounds: NotNegative = 1000
    """Rounds whose prompts and completions are kept, about 0.5 MB each; older ones are deleted. 0: all. Rounds that
    may be needed to resume are always kept."""


class ReportConfig(Section):
    """Where metrics go, in addition to events.jsonl, and how much of that is kept."""

    to: list[Literal["tensorboard", "trackio", "wandb"]] = []
    """Any of "tensorboard" and "trackio" (dashboards on this machine, from files in the node's directory), and
    "wandb"."""
    events_mb: NotNegative = 64
    """MB of events.jsonl and its older parts that are kept: about 20,000 rounds. The oldest events are deleted. 0:
    all."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port at which Prometheus can fetch the node's metrics (/metrics) while it runs. 0: none."""
    metrics_address: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:_-]+$")] = "127.0.0.1"
    """Address to listen on for Prometheus. By default, only this machine can connect. With 0.0.0.0, everyone who can
    reach this machine can."""
