"""A fixed set of questions, addressed by position instead of seed, with a hash that a charter can pin."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hivemind_exp.errors import TaskError
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import Task, TaskSpec
from hivemind_exp.tasks.seed_sequence import canonical

FEWEST = 10
"""Minimum size of a set from which questions are held out."""


class FixedQuestion(NamedTuple):
    """One question of a fixed set."""

    question: str
    answer: str


Rows = tuple[Sequence[FixedQuestion], Sequence[FixedQuestion]]
"""A fixed set as read: training and held-out questions. If no held-out questions are given, some training questions are
held out."""


class FixedTask(Task):
    """Questions and answers from a file, compared as text or as mathematics."""

    def __init__(self, spec: TaskSpec, read: Callable[[TaskSpec], Rows], *, mathematics: bool) -> None:
        self._spec = spec
        self._read = read
        self._mathematics = mathematics
        self._rows: list[FixedQuestion] = []
        self._same: Callable[[str, str], float] = _same_words

    def prepare(self, role: Role) -> None:
        if role == "verify":
            if self._mathematics:
                from hivemind_exp.tasks.verifiers import mathematics

                mathematics.load()
                self._same = mathematics.same
            return
        train, heldout = self._read(self._spec)
        self._rows = [*train, *heldout]
        self.size, self.heldout_size = len(train), len(heldout)
        self.sha256 = hashlib.sha256(b"".join(canonical(*row) for row in self._rows)).hexdigest()

    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        question, answer = self._rows[seed]
        return question, {"answer": answer}

    def score(self, answer: str, entry: Mapping[str, Any]) -> float:
        return self._same(answer, str(entry["answer"]))


def _same_words(answer: str, right: str) -> float:
    mine, its = (unicodedata.normalize("NFC", text).split() for text in (answer, right))  # é has two spellings
    return float(mine == its)


def enough(train: Sequence[FixedQuestion], heldout: Sequence[FixedQuestion], source: str) -> Rows:
    """Return the two sets. Raises ``TaskError`` if there are too few questions to train on some and hold out others."""
    if len(train) < (1 if heldout else FEWEST):
        why = f"{source} has {len(train)} questions; at least {FEWEST} are needed, because some are held out"
        raise TaskError(why, next="swarmctl run --task sapo")
    return train, heldout
