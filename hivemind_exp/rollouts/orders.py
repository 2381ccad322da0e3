"""What is asked of an API for one prompt, and what came of it."""

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from hivemind_exp.rollouts.types import Kind, Message


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


class OffloadEngine(Protocol):
    """Whoever has orders filled, as the trainer sees it."""

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        """Have orders filled, each once; returns at once."""

    def wait(self, round_: int, deadline: float | None = None) -> None:
        """Wait until every order of a round is filled or given up, or the deadline (``time.monotonic``) has passed.

        Raises ``StopRequested`` and ``NodeError``.
        """

    def report_spend(self, round_: int) -> None:
        """Report what a round's orders used and cost."""
