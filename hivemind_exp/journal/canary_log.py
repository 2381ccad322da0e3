"""The journal's tables for the canary, which must survive restarts: evaluations, restorations and quarantines."""

import dataclasses
import json
import shlex
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp import atomic_write, formats
from hivemind_exp.errors import FileProblem, NodeError
from hivemind_exp.journal.records import SCORED_BY, Evaluation, SourceContribution
from hivemind_exp.list_command import list_command
from hivemind_exp.source_kinds import Kind

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (round INTEGER PRIMARY KEY, body TEXT);
CREATE TABLE IF NOT EXISTS marks (round INTEGER PRIMARY KEY, step INTEGER);
CREATE TABLE IF NOT EXISTS restorations (step INTEGER PRIMARY KEY, round INTEGER, source INTEGER, body TEXT);
"""
KEY_LETTERS = 16
"""How many letters of a question's digest its answer is recorded with."""
INSERT_ANSWERS = "INSERT OR REPLACE INTO answers VALUES (?,?)"


def answers_row(evaluation: Evaluation) -> tuple[int, str]:
    """Return the row that records which questions an evaluation answered correctly, by the start of their digests."""
    return evaluation.round, json.dumps({key[:KEY_LETTERS]: int(right) for key, right in evaluation.answers.items()})


@dataclass(frozen=True, slots=True)
class GoodCheckpoint:
    """An evaluation that was not worse than the ones before, and the checkpoint that was saved with it."""

    round: int
    step: int


@dataclass(frozen=True, slots=True)
class Restoration:
    """A return to an earlier checkpoint's weights, recorded before it is made."""

    step: int
    """Optimizer steps before it. The steps are not taken back; the next one learns from the earlier weights."""
    round: int
    source: int
    """The step of the checkpoint whose weights are used."""
    suspects: tuple[str, ...]
    """Peers and providers that are quarantined."""
    until: int
    """The first round in which they are not."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A peer or provider that the node does not learn from."""

    source: str
    """A peer's id, or a provider's name."""
    since: int
    """The round in which it was quarantined."""
    until: int
    """The first round in which it is not."""


class CanaryLog:
    """Reads and writes these records, on a connection of its own. Raises ``NodeError`` if the journal fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def answers(self, round_: int) -> dict[str, bool]:
        """Return which questions an evaluation answered correctly; empty if an older version made it."""
        rows = self._execute("SELECT body FROM answers WHERE round=?", round_).fetchall()
        return {question: bool(right) for question, right in json.loads(rows[0][0]).items()} if rows else {}

    def write_good(self, good: GoodCheckpoint) -> None:
        self._execute("INSERT OR REPLACE INTO marks VALUES (?,?)", good.round, good.step)

    def last_good(self) -> GoodCheckpoint | None:
        """Return the latest good evaluation."""
        rows = self._execute("SELECT round, step FROM marks ORDER BY round DESC LIMIT 1").fetchall()
        return GoodCheckpoint(*rows[0]) if rows else None

    def write_restoration(self, restoration: Restoration) -> None:
        body = json.dumps({"suspects": restoration.suspects, "until": restoration.until})
        values = restoration.step, restoration.round, restoration.source, body
        self._execute("INSERT OR REPLACE INTO restorations VALUES (?,?,?,?)", *values)

    def restorations(self) -> list[Restoration]:
        """Return all restorations, oldest first."""
        rows = self._execute("SELECT step, round, source, body FROM restorations ORDER BY step").fetchall()
        found = [(step, round_, source, json.loads(body)) for step, round_, source, body in rows]
        return [
            Restoration(step, round_, source, tuple(body["suspects"]), int(body["until"]))
            for step, round_, source, body in found
        ]

    def foreign(self, first_step: int, before: int) -> list[SourceContribution]:
        """Return what sources other than the node's own samples contributed to steps, ``before`` not included."""
        rows = self._execute(
            "SELECT kind, source, SUM(completions), SUM(tokens) FROM lessons WHERE step>=? AND step<? "
            "GROUP BY kind, source ORDER BY kind, source",
            *(first_step, before),
        )
        found = [SourceContribution(Kind(kind), *rest) for kind, *rest in rows]
        return [each for each in found if not each.kind.own or SCORED_BY in each.source]

    def gradient_norms(self, first_step: int, before: int) -> list[float]:
        """Return the recorded gradient norms of steps, without those that were not finite."""
        query = "SELECT grad_norm FROM results WHERE step>=? AND step<? AND grad_norm IS NOT NULL"
        return [norm for (norm,) in self._execute(query, first_step, before) if norm != float("inf")]

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise NodeError(f"cannot use the journal {self._path}: {error}", next=list_command(self._path)) from error


def suspect_of(contribution: SourceContribution) -> str:
    """Return the peer or the provider behind a contribution."""
    source = contribution.source.partition(SCORED_BY)[2] or contribution.source
    return source if contribution.kind is Kind.PEER else source.partition(":")[0]


def read_quarantine(path: Path) -> tuple[Suspect, ...]:
    """Return who is in ``quarantine.json``. Raises ``FileProblem``."""
    stored = formats.read_object(path)
    entries = [] if stored is None else stored.get("sources")
    try:
        return tuple(
            Suspect(str(each["source"]), int(each["since"]), int(each["until"]))
            for each in (entries if isinstance(entries, list) else ())
        )
    except (TypeError, KeyError, ValueError) as error:
        message = f"{path} is damaged. Without it, no peer or provider is quarantined"
        raise FileProblem(message, next=shlex.join(["rm", str(path)])) from error


def write_quarantine(path: Path, suspects: tuple[Suspect, ...]) -> None:
    """Replace ``quarantine.json``. Raises OSError."""
    body = {"schema": formats.FORMAT, "sources": [dataclasses.asdict(each) for each in suspects]}
    atomic_write.write(path, json.dumps(body, indent=2) + "\n")
