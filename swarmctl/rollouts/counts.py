"""What generation brought and cost, counted from a node's journal and ledger."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass

from hivemind_exp.tasks.base import FULL_CREDIT
from swarmctl.rollouts.rows import LOCAL

_BILLS = (
    "SELECT provider, model, stage, SUM(state != 'void'), SUM(prompt_tokens), SUM(completion_tokens), TOTAL(usd), "
    "TOTAL(CASE WHEN state IN ('kept', 'open', 'batched') THEN reserved ELSE 0 END) FROM requests "
    "GROUP BY provider, model, stage"
)
_MADE = (
    "SELECT round, stage, question, source, model, COUNT(*), COUNT(outcome), TOTAL(outcome >= ?), "
    # As many ids as commas and one.
    "SUM(LENGTH(ids) - LENGTH(REPLACE(ids, ',', '')) + 1) FROM completions "
    "GROUP BY round, stage, question, source, model"
)
_LOST = "SELECT round, stage, question, COUNT(*) FROM lost GROUP BY round, stage, question"

Question = tuple[int, str, str]
"""Round, stage, digest."""
_SOLE = "SELECT provider, MAX(model) FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) = 1"
_SEVERAL = (
    "SELECT DISTINCT round, stage, question, provider, model FROM requests WHERE provider IN "
    "(SELECT provider FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) > 1)"
)
_IN_ORDER = "SELECT round, stage, question, provider, model FROM requests ORDER BY id"


@dataclass(frozen=True, slots=True)
class CountKey:
    """What is counted together. None where it is not known, or not told apart."""

    provider: str | None = None
    model: str | None = None
    stage: str | None = None


@dataclass(slots=True)
class Counts:
    """What one group of rollouts brought and cost. None where nothing tells."""

    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    """What services reported as used."""
    usd_unsettled: float | None = None
    """Reserves of requests whose outcome nobody knows: at most that was spent beside."""
    completions: int = 0
    verified: int = 0
    correct: int = 0
    lost: int = 0

    @property
    def share_correct(self) -> float | None:
        return self.correct / self.verified if self.verified else None

    def add(self, other: Counts) -> None:
        """Add to each count; what only one side knows counts as it is."""
        for name in self.__slots__:
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, more if mine is None else mine if more is None else mine + more)


def count(
    journal: sqlite3.Connection, ledger: sqlite3.Connection | None, by: Sequence[str], own_model: str | None
) -> dict[CountKey, Counts]:
    """Return the counts of each group, in order. ``by``: any of the fields of ``Group``."""
    asked = RequestedModels(ledger)
    found: dict[CountKey, Counts] = defaultdict(Counts)
    for parts in (_bills(ledger), _made(journal, asked, own_model), _lost(journal, asked)):
        for group, counts in parts:
            found[_coarse(group, by)].add(counts)
    return {group: found[group] for group in sorted(found, key=lambda group: [name or "" for name in astuple(group)])}


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of all."""
    result = Counts()
    for each in counts:
        result.add(each)
    return result


def _coarse(group: CountKey, by: Sequence[str]) -> CountKey:
    return CountKey(**{name: value for name, value in asdict(group).items() if name in by})


def _bills(ledger: sqlite3.Connection | None) -> Iterator[tuple[CountKey, Counts]]:
    for provider, model, stage, *bill in ledger.execute(_BILLS) if ledger is not None else ():
        yield CountKey(provider, model, stage), Counts(*bill)


def _made(
    journal: sqlite3.Connection, asked: RequestedModels, own_model: str | None
) -> Iterator[tuple[CountKey, Counts]]:
    for round_, stage, question, source, answered, *made, tokens in journal.execute(_MADE, (FULL_CREDIT,)):
        completions, verified, correct = map(int, made)
        counts = Counts(completions=completions, verified=verified, correct=correct)
        model = asked.model((round_, stage, question), source, answered)
        if source == LOCAL:
            counts.completion_tokens, counts.usd, counts.usd_unsettled = tokens, 0.0, 0.0
            model = model or own_model
        yield CountKey(source, model, stage), counts


def _lost(journal: sqlite3.Connection, asked: RequestedModels) -> Iterator[tuple[CountKey, Counts]]:
    rows = [((round_, stage, question), lost) for round_, stage, question, lost in journal.execute(_LOST)]
    last = asked.last({question for question, _ in rows})
    for question, lost in rows:
        provider, model = last.get(question, (None, None))
        yield CountKey(provider, model, question[1]), Counts(lost=lost)


class RequestedModels:
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
