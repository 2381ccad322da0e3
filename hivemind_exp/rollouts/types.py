"""What a prompt, a rollout and a group are; what is asked of an API for one prompt, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hivemind_exp.tasks.base import Question, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""One turn of a chat: ``role`` and ``content``."""


class Kind(StrEnum):
    """What may be learned from a source (see ``hivemind_exp.losses.registry``)."""

    POLICY = "policy"
    """This node's weights, with the token ids as sampled."""
    POLICY_TEXT = "policy_text"
    """This node's weights, known as text only."""
    TEACHER = "teacher"
    """Another model behind an API."""
    PEER = "peer"
    """Another node's whole groups, as text."""
    RELAY = "relay"
    """Any engine; nothing is learned."""

    @property
    def own(self) -> bool:
        """Whether the text came from this node's own weights."""
        return self in (Kind.POLICY, Kind.POLICY_TEXT)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a stage asks about one question."""

    question: Question
    stage: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    """Token ids under this node's tokenizer, ready for completion."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the stage's rewards need to know of what the prompt shows (JSON). Never shown to a model."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion."""

    kind: Kind
    source: str
    """Who made it: "local", a provider's name or a peer's id."""
    text: str
    ids: tuple[int, ...]
    """Token ids under this node's tokenizer, the end-of-sequence token included when there was one. Never empty."""
    truncated: bool
    """Cut at the length limit."""
    lag: int | None = 0
    """Optimizer steps between the weights that made it and those that learn from it; None when unknown."""
    model: str | None = None
    """Which model a provider says it was; None for this node's own."""
    behaviour_logps: tuple[float, ...] | None = field(default=None, repr=False)
    """Log-probabilities under the weights that made it, one a token; None for text and for rows sampled here."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("a rollout needs at least one token: an empty completion is the end-of-sequence token")
        if self.behaviour_logps is not None and len(self.behaviour_logps) != len(self.ids):
            raise ValueError(f"{len(self.behaviour_logps)} log-probabilities for {len(self.ids)} tokens")

    @property
    def maker(self) -> str:
        """Who made it, with the model that a provider names. What a peer says of its model is not known."""
        return self.source if self.model is None or self.kind is Kind.PEER else f"{self.source}:{self.model}"


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt, with their scores once verified."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...] = ()
    places: tuple[int, ...] = ()
    """The place in the group of each rollout, where some places are empty. Left out: 0, 1, 2, …"""

    def numbered(self) -> dict[int, Rollout]:
        return dict(zip(self.places or range(len(self.rollouts)), self.rollouts, strict=True))

    def scored(self) -> list[tuple[Rollout, Score]]:
        """Return each rollout with its score. For groups that have been verified."""
        return list(zip(self.rollouts, self.scores, strict=True))


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str, truncated: bool) -> tuple[int, ...]:
    """Return the token ids of a text, which ends the turn unless it was cut. Never none."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return ids if truncated and ids else (*ids, tokenizer.eos_token_id)


@dataclass(slots=True, eq=False)
class CompletionRequest:
    """The places of one group that an API is to fill."""

    round: int
    stage: str
    question: str
    """Digest of the question."""
    messages: tuple[Message, ...]
    indices: tuple[int, ...]
    """Indices within the group, those that the journal already holds left out."""
    version: int
    """Optimizer steps behind the node's weights when it was placed."""
    refused: bool = False
    """A service does not take this prompt: nobody is asked again."""
    done: Future[None] = field(default_factory=Future)
    """Ends when every place is filled or given up; an exception where the node must stop."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of an API, as the journal keeps it. Token ids are made from the text when it is read."""

    index: int
    kind: Kind
    provider: str
    model: str
    text: str
    truncated: bool
    version: int | None
    """Optimizer steps behind the weights that made it; of another model, behind the node's when it was asked for;
    None where unknown."""
    usd: float
    """Its part of what the request cost."""


@dataclass(slots=True)
class RoundSpend:
    """What one provider did in one round, and at which price."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    """Reserves of requests whose outcome nobody knows included."""
    lost: int = 0
    """Places given up."""


def by_group(requests: Iterable[CompletionRequest]) -> dict[tuple[int, str, str], CompletionRequest]:
    """Return requests by round, stage and question: what one of them is known by."""
    return {(each.round, each.stage, each.question): each for each in requests}
