"""Which model was asked for a rollout, from a node's ledger.

The journal knows which model answered: "gpt-4o-mini" is answered by one with a date in its name.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection

Question = tuple[int, str, str]
"""Round, stage, digest."""
_SOLE = "SELECT provider, MAX(model) FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) = 1"
_SEVERAL = (
    "SELECT DISTINCT round, stage, question, provider, model FROM requests WHERE provider IN "
    "(SELECT provider FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) > 1)"
)
_IN_ORDER = "SELECT round, stage, question, provider, model FROM requests ORDER BY id"


class Asked:
    """Looks up who was asked what. Without a ledger, nobody was."""

    def __init__(self, ledger: sqlite3.Connection | None) -> None:
        self._ledger = ledger
        self._sole: dict[str, str] = {}
        self._several: dict[tuple[Question, str], set[str]] = defaultdict(set)
        if ledger is None:
            return
        self._sole = dict(ledger.execute(_SOLE).fetchall())
        for round_, stage, question, provider, model in ledger.execute(_SEVERAL):
            self._several[(round_, stage, question), provider].add(model)

    def model(self, question: Question, provider: str, answered: str | None) -> str | None:
        """Return the model that a provider was asked for; the one that answered where the ledger does not tell."""
        if provider in self._sole:
            return self._sole[provider]
        names = self._several.get((question, provider), set())
        if len(names) == 1:
            return next(iter(names))
        # Two models of one provider in one chain: the answer's name begins with that of its own.
        near = [name for name in names if answered is not None and answered.startswith(name)]
        return max(near, key=len, default=answered)

    def last(self, questions: Collection[Question]) -> dict[Question, tuple[str, str]]:
        """Return which provider and model were asked last: they are the ones that gave a question up."""
        found: dict[Question, tuple[str, str]] = {}
        if self._ledger is not None and questions:
            for round_, stage, question, provider, model in self._ledger.execute(_IN_ORDER):
                if (round_, stage, question) in questions:
                    found[round_, stage, question] = (provider, model)
        return found
