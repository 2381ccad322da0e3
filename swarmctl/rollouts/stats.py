"""``swarmctl rollouts stats``: counts and cost per provider, from a node's journal and ledger."""

from __future__ import annotations

import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from hivemind_exp.model_names import short_name
from hivemind_exp.money import digits
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import FULL_CREDIT
from swarmctl.errors import UsageError
from swarmctl.rollouts.journal import LOCAL, node_model, node_with_journal, provider_name, reading
from swarmctl.storage.node_lock import is_held
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import percent, several
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.table import or_dash, print_table
from swarmctl.terminal.views import Writer

_NUMBERS = ("requests", "tokens in", "tokens out", "USD", "unsettled", "completions", "correct", "lost")
PROBE = "probe"
"""The stage, in the ledger, of the test request at the start of a run."""
_NARROW = ("unsettled", "lost", "tokens in", "tokens out", "requests")
"""The columns that are left out on a narrow terminal, in this order."""
_BILLS = (
    "SELECT provider, model, stage, SUM(state != 'void'), SUM(prompt_tokens), SUM(completion_tokens), TOTAL(usd), "
    "TOTAL(CASE WHEN state IN ('kept', 'open', 'batched') THEN reserved ELSE 0 END) FROM requests "
    "GROUP BY provider, model, stage"
)
_MADE = (
    "SELECT round, stage, question, source, model, COUNT(*), COUNT(outcome), TOTAL(outcome >= ?), "
    # There is one more id than commas.
    "SUM(LENGTH(ids) - LENGTH(REPLACE(ids, ',', '')) + 1) FROM completions "
    "WHERE stage NOT IN ('judge', 'score') GROUP BY round, stage, question, source, model"
)
_UNVERIFIED = (
    # A stage is verified as a whole, so what has no outcome after that was not used. Hints are never verified.
    "SELECT TOTAL(NOT past), TOTAL(past) FROM (SELECT round < (SELECT IFNULL(MAX(round), -1) FROM completions WHERE "
    "outcome IS NOT NULL) OR EXISTS (SELECT 1 FROM completions other WHERE other.swarm = mine.swarm AND other.round = "
    "mine.round AND other.stage = mine.stage AND other.outcome IS NOT NULL) AS past FROM completions mine WHERE "
    "outcome IS NULL AND stage NOT IN ('judge', 'score', 'hint'))"
)
"""Completions without an outcome: of a round or stage that is not verified yet, and others."""
_LOST = (
    "SELECT round, stage, question, COUNT(*) FROM lost WHERE stage NOT IN ('judge', 'score') "
    "GROUP BY round, stage, question"
)
_SOLE = "SELECT provider, MAX(model) FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) = 1"
_SEVERAL = (
    "SELECT DISTINCT round, stage, question, provider, model FROM requests WHERE provider IN "
    "(SELECT provider FROM requests GROUP BY provider HAVING COUNT(DISTINCT model) > 1)"
)
_IN_ORDER = "SELECT round, stage, question, provider, model FROM requests ORDER BY id"


class CountKey(NamedTuple):
    """What is counted together. None if unknown, or not counted separately."""

    provider: str | None = None
    model: str | None = None
    stage: str | None = None


@dataclass(slots=True)
class Counts:
    """Counts and cost of one group of rollouts. Unknown values are None."""

    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    """Cost of the usage that services reported."""
    usd_unsettled: float | None = None
    """Reserves of requests with unknown outcome: at most this much was spent in addition."""
    completions: int = 0
    verified: int = 0
    correct: int = 0
    lost: int = 0

    @property
    def share_correct(self) -> float | None:
        return self.correct / self.verified if self.verified else None

    def add(self, other: Counts) -> None:
        """Add ``other`` to each count. A value known to only one side is used as it is."""
        for name in self.__slots__:
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, more if mine is None else mine if more is None else mine + more)


def stats(node: str | None, by: str, *, as_json: bool) -> None:
    """Print counts. Raises UsageError if ``by`` is wrong, NodeError if there is nothing to count."""
    keys = _keys(by)
    files = node_with_journal(node)
    counts = _count(files, keys)
    whole = _total(counts)
    if as_json:
        print_json(node=files.root.name, by=keys, **_as_json(counts, whole))
        return
    if not counts:
        Writer(sys.stderr)(f"No rollouts in node {files.root.name}.")
        return
    if node is None:
        Writer(sys.stderr)(f"Node {files.root.name} (the latest):")
    cells = []
    for group, each in counts.items():
        cells.append(_cells([_shown(group, key) for key in keys], each))
    if len(counts) > 1:
        cells.append(_cells(["total", "", ""][: len(keys)], whole))
    print_table(cells, [*keys, *_NUMBERS], right=_NUMBERS, droppable=_NARROW)
    for line in (*_in_flight(files), *_not_verified(files, whole.completions)):
        Writer(sys.stderr)(line)


def _in_flight(files: NodeFiles) -> Iterator[str]:
    """Yield how many of the requests have no answer yet: the live view counts those that have one."""
    if files.ledger.is_file() and is_held(files.lock):  # in a node that is not running, none is in flight
        with reading(files.ledger) as ledger:
            (number,) = ledger.execute("SELECT COUNT(*) FROM requests WHERE state IN ('open', 'batched')").fetchone()
        if number:
            asked = several(number, "request")
            yield f"{asked} in flight. The live view counts only requests of its run that have ended."


def _not_verified(files: NodeFiles, total: int) -> Iterator[str]:
    """Yield what to know about completions without an outcome. ``total``: the completions counted."""
    with reading(files.journal) as journal:
        pending, unused = map(int, journal.execute(_UNVERIFIED).fetchone())
    of = f"of {several(total, 'completion')} not verified"
    if pending:
        yield f"{pending:,} {of} yet: they are verified at the end of their round."
    if unused:
        yield (
            f"{unused:,} {of}: the node did not use them, and its warnings say why. The usual reason is that they are "
            "too long for it: raise generation.max_completion_tokens, or choose a model that writes shorter answers."
        )
    if pending or unused:
        yield "The share of correct ones leaves them out."


def _shown(group: CountKey, key: str) -> str:
    value = getattr(group, key)
    if key == "stage" and value == PROBE:
        return "test request"
    return provider_name(short_name(value) if key == "model" and value is not None else value)


def counted(files: NodeFiles, by: Sequence[str]) -> dict[str, Any]:
    """Return a node's counts as ``stats --json`` prints them: rows, ``stats``, and their sum, ``total``.

    ``by``: any of the fields of ``CountKey``. Raises NodeError.
    """
    counts = _count(files, by)
    return _as_json(counts, _total(counts))


def _total(counts: Mapping[CountKey, Counts]) -> Counts:
    whole = Counts()
    for each in counts.values():
        whole.add(each)
    return whole


def _as_json(counts: Mapping[CountKey, Counts], whole: Counts) -> dict[str, Any]:
    return {"stats": [_fields(group, each) for group, each in counts.items()], "total": _fields(CountKey(), whole)}


def _keys(by: str) -> list[str]:
    wanted = [word.strip() for word in by.split(",") if word.strip()]
    for word in wanted:
        if word not in CountKey._fields:
            guess = nearest(word, CountKey._fields)
            hint = f"; did you mean {guess}?" if guess else f". Use any of {', '.join(CountKey._fields)}"
            raise UsageError(f"invalid --by: {word!r}{hint}", next="swarmctl rollouts stats --help")
    return [key for key in CountKey._fields if key in wanted]


def _count(files: NodeFiles, by: Sequence[str]) -> dict[CountKey, Counts]:
    """Return the counts of each group, sorted. ``by``: any of the fields of ``CountKey``."""
    found: dict[CountKey, Counts] = defaultdict(Counts)
    # A node that never used an API has no ledger.
    opened = reading(files.ledger) if files.ledger.is_file() else nullcontext()
    with reading(files.journal) as journal, opened as ledger:
        for parts in (_bills(ledger), _made(journal, ledger, node_model(files)), _lost(journal, ledger)):
            for group, counts in parts:
                found[CountKey(**{name: getattr(group, name) for name in by})].add(counts)
    return {group: found[group] for group in sorted(found, key=lambda group: [name or "" for name in group])}


def _bills(ledger: sqlite3.Connection | None) -> Iterator[tuple[CountKey, Counts]]:
    for provider, model, stage, *bill in ledger.execute(_BILLS) if ledger is not None else ():
        yield CountKey(provider, model, stage), Counts(*bill)


def _made(
    journal: sqlite3.Connection, ledger: sqlite3.Connection | None, own_model: str | None
) -> Iterator[tuple[CountKey, Counts]]:
    asked = RequestedModels(ledger)
    for round_, stage, question, source, answered, *made, tokens in journal.execute(_MADE, (FULL_CREDIT,)):
        completions, verified, correct = map(int, made)
        counts = Counts(completions=completions, verified=verified, correct=correct)
        model = asked.model((round_, stage, question), source, answered)
        if source == LOCAL:
            counts.completion_tokens, counts.usd, counts.usd_unsettled = tokens, 0.0, 0.0
            model = model or own_model
        yield CountKey(source, model, stage), counts


def _lost(journal: sqlite3.Connection, ledger: sqlite3.Connection | None) -> Iterator[tuple[CountKey, Counts]]:
    lost = {row[:3]: row[3] for row in journal.execute(_LOST)}
    # The provider that was asked last is the one that gave up.
    last = {row[:3]: row[3:] for row in (ledger.execute(_IN_ORDER) if ledger and lost else ()) if row[:3] in lost}
    for question, number in lost.items():
        provider, model = last.get(question, (None, None))
        yield CountKey(provider, model, question[1]), Counts(lost=number)


class RequestedModels:
    """Looks up which model a provider was asked for. Without a ledger, there were no requests."""

    def __init__(self, ledger: sqlite3.Connection | None) -> None:
        self._sole: dict[str, str] = {}
        self._several: dict[tuple[tuple[int, str, str], str], set[str]] = defaultdict(set)
        if ledger is not None:
            self._sole = dict(ledger.execute(_SOLE).fetchall())
            for round_, stage, question, provider, model in ledger.execute(_SEVERAL):
                self._several[(round_, stage, question), provider].add(model)

    def model(self, question: tuple[int, str, str], provider: str, answered: str | None) -> str | None:
        """Return the model that a provider was asked for; if the ledger does not say, the one that answered.

        ``question``: round, stage, digest.
        """
        if provider in self._sole:
            return self._sole[provider]
        names = self._several.get((question, provider), set())
        if len(names) == 1:
            return next(iter(names))
        # A chain may have two models of one provider; the name in an answer begins with the name that was requested.
        near = [name for name in names if answered is not None and answered.startswith(name)]
        return max(near, key=len, default=answered)


def _fields(group: CountKey, counts: Counts) -> dict[str, Any]:
    fields = asdict(counts)
    lost = fields.pop("lost")
    return {**group._asdict(), **fields, "share_correct": counts.share_correct, "lost": lost}


def _cells(names: Sequence[str], counts: Counts) -> list[str]:
    # A column of dashes is left out: what is rare is shown only where it happened.
    return [
        *names,
        *map(or_dash, (counts.requests, counts.prompt_tokens, counts.completion_tokens)),
        *(or_dash(usd, digits) for usd in (counts.usd, counts.usd_unsettled or None)),
        or_dash(counts.completions),
        or_dash(counts.share_correct, percent),
        or_dash(counts.lost or None),
    ]
