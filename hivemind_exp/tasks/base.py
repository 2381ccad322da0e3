"""What a task is: a generator of questions with a verifier."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hivemind_exp.processes.sandbox import Role

Split = Literal["train", "heldout"]
"""``train`` follows from the charter alone; ``heldout`` also from the node's secret, so no peer can know it."""


FULL_CREDIT = 0.99
"""A verifier's score from which an answer counts as right: some pay partial credit just below 1."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, made here from (task, seed, round, index), never read from a peer."""

    task: str
    """Name of the task in the mixture."""
    split: Split
    round: int
    index: int
    """Place in the round's endless sequence of questions."""
    text: str
    """What the model is asked."""
    entry: Mapping[str, Any]
    """What the verifier needs, the reference answer included. Never shown to a model."""
    digest: str
    """SHA-256 (hex) of task and text: equal on every node that makes this question."""
    key: str
    """Questions with equal keys count as the same one when held-out questions are kept out of training."""


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One part of a completion's reward."""

    name: str
    value: float
    maximum: float
    """What the best completion of this prompt gets."""
    why: str
    """A few words for people."""


@dataclass(frozen=True, slots=True)
class Score:
    """What is said here of one completion."""

    outcome: float
    """In [0, 1]: from the task's own verifier, or from a stage's one term that tells right from wrong. All that foreign
    rows are ever weighed by."""
    strict: bool
    """The completion is exactly what was asked for, in the tags that were asked for; of an answer, reasoning may be
    missing."""
    why: str
    """One short sentence for people."""
    terms: tuple[RewardTerm, ...] = ()
    """What the reward is made of, where that is more than the outcome."""

    @property
    def correct(self) -> bool:
        return self.outcome >= FULL_CREDIT

    @property
    def reward(self) -> float:
        """What the node's own rows are compared by: the sum of the terms, without any the outcome."""
        return sum(term.value for term in self.terms) if self.terms else self.outcome


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a worker needs to build one task of the mixture."""

    label: str
    """Name of the task in the mixture: its own name, numbered when it stands there twice."""
    module: str
    """Where ``build`` is."""
    name: str
    path: str | None = None
    """Absolute path of a fixed set's file or directory."""
    check: Literal["exact", "math"] = "exact"
    params: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One generator with its verifier. Lives in worker processes; building one must be cheap."""

    size: int | None = None
    """Number of training questions of a fixed set, None for a generator without end. Known once prepared to make."""
    heldout_size: int = 0
    """Questions of a fixed set's own held-out file, at the places from ``size``. 0: held out of the training set."""
    sha256: str | None = None
    """SHA-256 of the data of a fixed set."""
    version: str = ""
    """Name and version of the library that makes the questions, or the empty string."""

    def prepare(self, role: Role) -> None:  # noqa: B027 - most have nothing to load
        """Import and load what this role needs. Called once, before the sandbox closes. May raise ``TaskError``."""

    @abstractmethod
    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        """Return text and verifier's entry of the question with this seed (of a fixed set: at this place)."""

    @abstractmethod
    def score(self, answer: str, entry: Mapping[str, Any]) -> float:
        """Return the credit in [0, 1] for ``answer``, which is hostile text."""

    def key(self, text: str, entry: Mapping[str, Any]) -> str:  # noqa: ARG002 - some need it
        """Return what makes two questions the same."""
        return normalised(text)


FACTS = ("size", "heldout_size", "sha256", "version")
"""What a worker says of each task once it is prepared: attributes of ``Task``."""


def normalised(text: str) -> str:
    """Return ``text`` without differences of case, width and spacing: the key of most questions."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Tasks(Protocol):
    """The mixture, as the trainer sees it. ``hivemind_exp.tasks.mixture`` holds the one for real use."""

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        """Return the first ``count`` questions of a round; training ones are never among the held-out."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        """Verify completions (hostile text) side by side; one score for each, never an exception."""

    def close(self) -> None:
        """End the worker processes."""
