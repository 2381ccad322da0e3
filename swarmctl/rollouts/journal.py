"""A node's journal and ledger, opened to be read, also while it runs; and the rollouts that the journal holds.

Rollouts are read round by round, so that a long life fits into little memory.
"""

import json
import os
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import FULL_CREDIT, RewardTerm
from swarmctl.nodes.lookup import existing_or_latest
from swarmctl.paths import shown
from swarmctl.storage.json_file import read_json, rfc3339
from swarmctl.storage.node_lock import is_held
from swarmctl.terminal.safe_text import without_keys

_BUSY_S = 5.0
"""How long to wait while the node cleans up its own files."""
LOCAL = "local"
"""The source of what this machine generated."""
_PROMPTS = "SELECT stage, question, position, task, messages FROM prompts WHERE swarm=? AND round=? ORDER BY position"
_COMPLETIONS = (
    "SELECT stage, question, idx AS place, kind, source AS provider, model, version, text, truncated, outcome, strict, "
    "why, {terms} AS terms, usd, t AS time FROM completions WHERE swarm=? AND round=? AND substr(question, 1, ?)=?"
)
_LOST = (
    "SELECT stage, question, idx AS place, why AS lost FROM lost WHERE swarm=? AND round=? AND substr(question, 1, ?)=?"
)
_NEXT = "SELECT swarm, round FROM {table} WHERE (swarm, round) > (?, ?) ORDER BY swarm, round LIMIT 1"


def node_with_journal(name: str | None) -> NodeFiles:
    """Return the files of a node that has rollouts; without a name, of the node that said something last.

    Raises ``NodeError`` where there is no such node, or nothing in it yet.
    """
    files = existing_or_latest(name)
    if not files.journal.is_file():
        node = files.root.name
        running = is_held(files.lock)
        raise NodeError(
            f"node {node} has no journal yet: " + ("it is still starting" if running else "it has played no round"),
            next=f"swarmctl logs --follow --node {node}" if running else f"swarmctl run --node {node}",
        )
    return files


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file and see it as it is at this moment, until the end of the block.

    Raises ``NodeError`` where it cannot be read.
    """
    try:
        with closing(_opened(path)) as db:
            yield db
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {shown(path)}: {error}", next=f"ls -l {shlex.quote(str(path))}") from error


def _opened(path: Path, how: str = "mode=ro") -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()  # what is read from here on is of one moment
        return db
    except sqlite3.Error:
        db.close()
        # A write-ahead log wants a file beside the database, which a read-only disk refuses. What has no log is whole.
        log = Path(f"{path}-wal")
        if how != "mode=ro" or os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
    return _opened(path, "mode=ro&immutable=1")


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Which rollouts are meant."""

    round: int | None = None
    question: str = ""
    """How the question's digest begins."""
    source: str | None = None
    """A kind ("teacher"), or who made it ("openai", "local")."""
    correct: bool = False
    """Only those that were verified as right."""
    lost: bool = False
    """Also places of a group that were given up."""
    last: int | None = None
    """Only so many, the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """One completion with its prompt, or a place of a group that was given up. Unknown is None."""

    swarm: str
    round: int
    stage: str
    task: str | None = None
    question: str
    messages: tuple[Mapping[str, str], ...] | None = None
    place: int
    """As the journal counts: peers' groups follow the node's own."""
    text: str | None = None
    truncated: bool | None = None
    outcome: float | None = None
    strict: bool | None = None
    why: str | None = None
    terms: tuple[RewardTerm, ...] | None = None
    """What the reward is made of, where that is more than the outcome."""
    kind: str | None = None
    provider: str | None = None
    model: str | None = None
    version: int | None = None
    """Optimizer steps behind the weights that made it, or behind the node's when another model was asked."""
    usd: float | None = None
    time: float | None = None
    position: int = -1
    """Of the prompt within its stage."""
    lost: str | None = None
    """Why the place was given up."""

    @property
    def correct(self) -> bool:
        return self.outcome is not None and self.outcome >= FULL_CREDIT


ROW = ("node", *(field.name for field in fields(RolloutRecord) if field.name not in ("position", "lost")))
"""The keys of every output, in their order."""


def node_model(files: NodeFiles) -> str | None:
    """Return the name of the node's own model; None where its files do not tell."""
    for record in (read_json(files.identity), (read_json(files.config) or {}).get("config")):
        name = ((record or {}).get("model") or {}).get("name")
        if name is not None:
            return str(without_keys(str(name)))
    return None


def rollouts(files: NodeFiles, wanted: RolloutFilter) -> Iterator[RolloutRecord]:
    """Yield what is wanted of a node's rollouts, oldest round first. Raises ``NodeError`` where they cannot be read."""
    own_model = node_model(files)
    with reading(files.journal) as db:
        moments = {each for table in ("completions", "lost") for each in _moments(db, table)}
        in_order = sorted((each for each in moments if wanted.round in (None, each[1])), key=itemgetter(1, 0))
        if wanted.last is None:
            for moment in in_order:
                yield from _of_round(db, *moment, wanted, own_model)
            return
        found: list[RolloutRecord] = []
        while in_order and len(found) < wanted.last:
            found = [*_of_round(db, *in_order.pop(), wanted, own_model), *found]
        yield from found[max(0, len(found) - wanted.last) :]


def as_row(rollout: RolloutRecord, node: str) -> dict[str, Any]:
    """Return a rollout as it is put out."""
    from hivemind_exp.journal.records import index_in_group  # counts do without

    row = asdict(rollout) | {"node": node, "place": index_in_group(rollout.place)}
    row["time"] = None if rollout.time is None else rfc3339(rollout.time)
    return {key: row[key] for key in ROW}


def _moments(db: sqlite3.Connection, table: str) -> Iterator[tuple[str, int]]:
    """Yield each swarm and round of a table, going from one to the next along its key: the texts are not read."""
    moment = ("", -1)
    while found := db.execute(_NEXT.format(table=table), moment).fetchone():
        yield (moment := found)


def _of_round(
    db: sqlite3.Connection, swarm: str, round_: int, wanted: RolloutFilter, own_model: str | None
) -> list[RolloutRecord]:
    prompts: dict[tuple[str, str], dict[str, Any]] = {}
    for prompt in _dicts(db, _PROMPTS, (swarm, round_)):
        prompt["messages"] = tuple(json.loads(prompt["messages"]))
        prompts.setdefault((prompt.pop("stage"), prompt.pop("question")), prompt)

    def record(row: dict[str, Any]) -> RolloutRecord:
        return RolloutRecord(swarm=swarm, round=round_, **prompts.get((row["stage"], row["question"]), {}), **row)

    where = (swarm, round_, len(wanted.question), wanted.question)
    found = []
    # Rewards have no terms in an older journal; its node adds them at its next start.
    has_terms = any(name == "terms" for _, name, *_ in db.execute("PRAGMA table_info(completions)"))
    for row in _dicts(db, _COMPLETIONS.format(terms="terms" if has_terms else "NULL"), where):
        row["truncated"] = bool(row["truncated"])
        row["strict"] = None if row["strict"] is None else bool(row["strict"])
        row["terms"] = row["terms"] and tuple(RewardTerm(*term) for term in json.loads(row["terms"]))
        if row["model"] is None and row["provider"] == LOCAL:
            row["model"] = own_model
        rollout = record(row)
        if wanted.source in (None, rollout.kind, rollout.provider) and (rollout.correct or not wanted.correct):
            found.append(rollout)
    if wanted.lost and wanted.source is None:
        found += map(record, _dicts(db, _LOST, where))
    return sorted(found, key=lambda each: (each.stage, each.position, each.question, each.place))


def _dicts(db: sqlite3.Connection, query: str, parameters: tuple[object, ...]) -> Iterator[dict[str, Any]]:
    cursor = db.execute(query, parameters)
    names = [name for name, *_ in cursor.description]
    return (dict(zip(names, values, strict=True)) for values in cursor)
