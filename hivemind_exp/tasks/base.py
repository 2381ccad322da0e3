"""The task interface: a generator of questions with a verifier."""

import importlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hivemind_exp.processes.sandbox import Role

Split = Literal["train", "heldout"]
"""``train`` is derived from the charter only; ``heldout`` also from the node's secret, so no peer can predict it."""


FULL_CREDIT = 0.99
"""An answer with at least this score counts as correct. Some verifiers give partial credit just below 1."""

NO_ANSWER = "no readable answer"
"""Why a completion without an unambiguous final answer gets no credit."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, generated locally from (task, seed, round, index), never taken from a peer."""

    task: str
    """Name of the task in the mixture."""
    split: Split
    round: int
    index: int
    """Position in the round's endless sequence of questions."""
    text: str
    """The question's text, as the model sees it."""
    entry: Mapping[str, Any]
    """Data for the verifier, including the reference answer. Never shown to a model."""
    digest: str
    """SHA-256 (hex) of task and text. Every node that generates this question gets the same digest."""
    key: str
    """Questions with equal keys count as the same question when held-out questions are kept out of training."""
    position: int | None = None
    """Position in a fixed set; None for a generated question."""
    level: int | None = None
    """Level of difficulty, from 0, under ``game.curriculum``; None if the task has no levels."""
    chat: tuple[Mapping[str, str], ...] = ()
    """The first messages of a conversation, which the model gets as they are. Empty if the task has one turn."""
    turns: int = 0
    """The most turns of the model in a conversation; 0 if the task has no conversations."""


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One part of a completion's reward."""

    name: str
    value: float
    maximum: float | None
    """The value for the best completion of this prompt. None if unknown, as in a task of your own."""
    why: str
    """A short reason, for people. May be empty."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an operator's own task, which sets the reward, returns for one answer."""

    credit: float
    """In [0, 1]: how correct the answer is."""
    terms: tuple[tuple[str, float], ...] = ()
    """The parts of the reward by name. If there are none, the reward is the credit."""
    why: str = ""
    """Why the task's code could not score the answer; empty if it could."""


LARGEST_REWARD = 1e6
"""Larger rewards, and terms of one, are refused: their mean and spread must be exact enough to be learned from."""
MOST_TERMS, LONGEST_TERM = 32, 60
"""The most terms that a reward may have, and the characters of a term's name. They are stored with each completion."""
MOST_MESSAGES, LONGEST_REPLY = 256, 2**20
"""The most messages, and characters in all of them, with which an environment may reply to one turn of the model. They
are stored with each conversation, and longer ones would not fit into its tokens."""


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """One turn of the model in a conversation."""

    text: str
    heard: tuple[Mapping[str, str], ...] = ()
    """The environment's messages that followed, with ``role`` and ``content``. Empty for the latest turn."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation with an environment, up to the model's latest turn."""

    name: str
    """Identifies the conversation, and nothing else."""
    seed: int
    """Seeds the environment's chance, so that the same turns get the same replies."""
    turns: tuple[ModelTurn, ...]
    last: bool = False
    """The model gets no further turn: the latest one was cut, or there is no room for more."""


@dataclass(frozen=True, slots=True)
class EnvironmentReply:
    """What an environment replied to the model's latest turn, in the worker."""

    messages: tuple[Mapping[str, str], ...] = ()
    verdict: Verdict | None = None
    """If the conversation is over: the reward. The model does not see ``messages`` then."""
    lost: bool = False
    """The conversation's state is gone, and playing its turns again gave other replies: it must begin again."""


@dataclass(frozen=True, slots=True)
class Score:
    """This node's verdict on one completion."""

    outcome: float
    """In [0, 1]: from the task's verifier, or from the one term of a stage that separates correct from wrong. External
    rows are weighted only by the outcome."""
    strict: bool
    """The completion has exactly the shape of a format. In an answer: only optional reasoning and the answer, in tags,
    in ``\\boxed{}`` or as plain text."""
    why: str
    """One short sentence, for people."""
    terms: tuple[RewardTerm, ...] = ()
    """The parts of the reward, if it is more than the outcome."""
    judged: bool = True
    """False if verifiers kept failing. Such a completion is left out, because it is neither correct nor wrong."""

    @property
    def correct(self) -> bool:
        return self.outcome >= FULL_CREDIT

    @property
    def reward(self) -> float:
        """The sum of the terms, or the outcome if there are none. The node's own rows are compared by it."""
        return sum(term.value for term in self.terms) if self.terms else self.outcome


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a worker needs to build one task of the mixture."""

    label: str
    """Name of the task in the mixture: its registered name, numbered if the task occurs more than once."""
    module: str
    """Module that contains ``build``."""
    name: str
    path: str | None = None
    """Absolute path of a fixed set's file or directory."""
    max_turns: int | None = None
    """The most turns of the model in a conversation, as set."""
    curriculum: bool = False
    """Whether the task needs its levels of difficulty."""
    levels: Sequence[Mapping[str, Any]] | None = None
    """Its levels of difficulty, as a swarm's charter lists them. None: those that the task has itself."""
    check: Literal["exact", "math"] = "exact"
    params: Mapping[str, Any] = field(default_factory=dict)


def needs_hub(spec: TaskSpec, role: Role) -> bool:
    """Whether a process with this role loads the task's data from the hub, before its sandbox closes."""
    try:
        return spec.path is None and role in getattr(importlib.import_module(spec.module), "NEED_HUB", ())
    except ImportError:  # the worker reports it in more detail
        return False


def interpreter(spec: TaskSpec) -> str | None:
    """Return the interpreter of the task's own virtual environment; None if it has none.

    Raises ``TaskError`` if it is not installed.
    """
    try:
        find = getattr(importlib.import_module(spec.module), "interpreter", None)
    except ImportError:  # the worker reports it in more detail
        return None
    return None if find is None else str(find(spec))


def runs_own_code(spec: TaskSpec) -> bool:
    """Whether the task runs code that is not part of this package. It is loaded in the sandbox only."""
    return bool(getattr(importlib.import_module(spec.module), "OWN_CODE", False))


def own_files(spec: TaskSpec) -> list[str]:
    """Return the files and directories named in the operator's own settings for a task."""
    named = [spec.path, *(value for value in spec.params.values() if isinstance(value, str))]
    return [path for path in named if path is not None and Path(path).exists()]


class Task(ABC):
    """One generator with its verifier. Runs in worker processes. Building one must be cheap."""

    size: int | None = None
    """Number of training questions in a fixed set; None for an endless generator. Set by ``prepare("make")``."""
    heldout_size: int = 0
    """Number of questions in a fixed set's separate held-out file; their positions start at ``size``. If 0, questions
    are held out from the training set."""
    sha256: str | None = None
    """SHA-256 of a fixed set's data."""
    version: str = ""
    """Name and version of the library that generates the questions, or an empty string."""
    levels: Sequence[Mapping[str, Any]] = ()
    """The parameters of each level of difficulty, easiest first; the last ones are the task's own. Empty: no levels."""
    printed: str = ""
    """The beginning of what the operator's own code printed while it was loaded and tried."""
    turns: int = 0
    """The most turns of the model in a conversation. 0: a question has one answer, which ``score`` gets."""

    def prepare(self, role: Role) -> None:  # noqa: B027 - most have nothing to load
        """Import and load what the role needs. Called once, before the sandbox closes. May raise ``TaskError``."""

    @abstractmethod
    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        """Return the question's text and its entry for the verifier. In a fixed set, ``seed`` is a position."""

    def make_at(self, seed: int, level: int) -> tuple[str, dict[str, Any]]:
        """Return the same as ``make``, at a level of difficulty. Only for tasks that have levels."""
        raise NotImplementedError

    @abstractmethod
    def score(self, answer: str, entry: Mapping[str, Any]) -> float | Verdict:
        """Return the credit in [0, 1] for ``answer``, which is untrusted text. A ``Verdict`` also sets the reward."""

    def reply(self, talk: Talk, entry: Mapping[str, Any]) -> EnvironmentReply:
        """Return the environment's reply to the latest turn of a conversation. Only for tasks that have ``turns``."""
        raise NotImplementedError

    def key(self, text: str, entry: Mapping[str, Any]) -> str:  # noqa: ARG002 - some need it
        """Return the key of a question. Questions with equal keys count as the same."""
        return normalised(text)


FACTS = ("size", "heldout_size", "sha256", "version", "levels", "printed", "turns")
"""The attributes of ``Task`` that a worker reports once the task is prepared."""


def normalised(text: str) -> str:
    """Return ``text`` with case, width and spacing normalized: the key of most questions."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class Heard:
    """What the trainer hears of an environment's reply."""

    messages: tuple[Mapping[str, str], ...] = ()
    score: Score | None = None
    """If the conversation is over: the verdict. Not ``judged`` if workers kept failing."""
    lost: bool = False
    """The conversation must begin again."""


@dataclass(frozen=True, slots=True)
class PacedTask:
    """One task of a mixture, as it is set."""

    label: str
    weight: float
    """How often it is asked, relative to the others."""
    levels: Sequence[Mapping[str, Any]]
    """The parameters of each level of difficulty, easiest first. Empty if the task has none."""


class Pacing(Protocol):
    """Decides which questions a round asks. The same round always gets the same decision, also after a restart."""

    def resting(self, task: str, round: int, size: int, stride: int) -> frozenset[int]:
        """Return the positions in a fixed set of ``size`` questions that are not asked in a round.

        ``stride``: the number of the set's questions that a round uses up. At least as many are not resting.
        """

    def level(self, task: str, round: int, levels: Sequence[Mapping[str, Any]]) -> int | None:
        """Return the level of difficulty of a round's questions; None for the task's own parameters."""

    def weights(self, round: int, tasks: Sequence[PacedTask]) -> Sequence[Fraction] | None:
        """Return how often a round asks each of ``tasks``, relative to the others; None: as they are set."""


class Tasks(Protocol):
    """The trainer's interface to a mixture of tasks, implemented in ``hivemind_exp.tasks.mixture``."""

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        """Return the first ``count`` questions of a round. Training questions are never held-out ones."""

    def examples(self, count: int) -> dict[str, list[Question]]:
        """Return up to ``count`` questions of each task, to show with their answers. None is held out."""

    def set_aside(self, questions: Sequence[Question]) -> None:
        """Keep questions out of training from now on, because prompts show them with their answers."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        """Verify completions (untrusted text) in parallel. Return one score for each; never raise because of one."""

    def conversing(self) -> list[str]:
        """Return the tasks whose questions are conversations."""

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:
        """Return environments' replies to the latest turns of conversations, in parallel. Only for those tasks."""

    def close(self) -> None:
        """Stop the worker processes."""


@runtime_checkable
class NamedQuestions(Protocol):
    """Tasks of which each question can be generated alone, for a swarm whose nodes ask different tasks at an index."""

    def question(self, task: str, round: int, index: int, level: int | None) -> Question | None:
        """Return a task's question at an index of a round and at a level of difficulty; None if it is held out here."""
