"""Read a node's journal and ledger, even while it runs, and the rollouts in the journal.

Rollouts are read round by round, so that even a long history needs little memory.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.formats import check_number
from hivemind_exp.journal.conversation import unpacked
from hivemind_exp.journal.decoding import decoding
from hivemind_exp.list_command import list_command
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.rollouts.types import Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.identity import animal_name, is_peer_id
from hivemind_exp.tasks.base import FULL_CREDIT, RewardTerm
from swarmctl.errors import UsageError
from swarmctl.nodes.lookup import existing_or_latest
from swarmctl.paths import shown
from swarmctl.storage.json_file import read_json, rfc3339
from swarmctl.storage.node_lock import is_held
from swarmctl.terminal.safe_text import without_keys
from swarmctl.terminal.suggest import nearest

_BUSY_S = 5.0
"""Seconds to wait while the node has a file locked to clean it up."""
LOCAL = "local"
"""The source of completions that this machine generated."""
_PROMPTS = "SELECT stage, question, position, task, messages FROM prompts WHERE swarm=? AND round=? ORDER BY position"
_COMPLETIONS = (
    "SELECT stage, question, idx AS place, kind, source AS provider, model, version, text, truncated, outcome, strict, "
    "why, {terms} AS terms, {conversation} AS turns, usd, t AS time FROM completions "
    "WHERE swarm=? AND round=? AND substr(question, 1, ?)=? "
    "AND stage NOT IN ('judge', 'score', 'hint')"  # grades, scores and hints are no rollouts
)
_HINTS = (
    "SELECT question, source AS provider, model, text, usd, lost.why AS refused FROM completions "
    "LEFT JOIN lost USING (swarm, round, stage, question, idx) "
    "WHERE swarm=? AND round=? AND substr(question, 1, ?)=? AND stage='hint'"
)
_LOST = (
    "SELECT stage, question, idx AS place, why AS lost FROM lost WHERE swarm=? AND round=? "
    "AND substr(question, 1, ?)=? AND stage NOT IN ('judge', 'score', 'hint')"
)
_NEXT = "SELECT swarm, round FROM {table} WHERE (swarm, round) > (?, ?) ORDER BY swarm, round LIMIT 1"


def node_with_journal(name: str | None) -> NodeFiles:
    """Return the files of a node that has rollouts; without a name, of the most recently active node.

    Raises ``NodeError`` if there is no such node, or it has no rollouts yet.
    """
    files = existing_or_latest(name)
    if not files.journal.is_file():
        node = files.root.name
        running = is_held(files.lock)
        raise NodeError(
            f"node {node} has no rollouts yet: " + ("it is still starting" if running else "it has not run a round"),
            next=f"swarmctl logs --follow --node {node}" if running else f"swarmctl run --node {node}",
        )
    return files


_NO_FILES = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)
"""SQLite's codes if it cannot create files next to a database."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file and yield a connection that sees its state at this moment.

    Raises ``NodeError`` if it cannot be read.
    """
    try:
        with closing(_opened(path)) as db:
            check_number(path, db.execute("PRAGMA user_version").fetchone()[0])
            yield db
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {shown(path)}: {error}", next=list_command(path)) from error


def _opened(path: Path, how: str = "mode=ro") -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()  # from here on, all reads see the same state
        return db
    except sqlite3.Error as error:
        db.close()
        # A write-ahead log needs files next to the database. On a disk that is full or read-only, opening it fails,
        # unless another program has it open and so made these files. Without a log, the database is complete and can be
        # opened as immutable.
        log = Path(f"{path}-wal")
        refused = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _NO_FILES
        if how != "mode=ro" or not refused or (log.exists() and log.stat().st_size):
            raise
    return _opened(path, "mode=ro&immutable=1")


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Which rollouts to select."""

    round: int | None = None
    """Counted from 1."""
    question: str = ""
    """Beginning of the question's digest."""
    source: str | None = None
    """A kind ("teacher"), or a provider ("openai", "local")."""
    correct: bool = False
    """Only rollouts verified as correct."""
    lost: bool = False
    """Also slots of a group that were given up."""
    last: int | None = None
    """Only this many, the latest."""


def provider_name(provider: str | None) -> str:
    """Return who made a rollout, for display: a peer by the name that ``swarm peers`` shows, and the end of its id."""
    if provider is None:
        return "unknown"
    return f"{animal_name(provider)} (…{provider[-8:]})" if is_peer_id(provider) else foreign(provider)


def check_source(files: NodeFiles, source: str | None) -> None:
    """Raise UsageError if ``source`` is no kind, no provider and nothing that the node has rollouts from."""
    known = {*map(str, Kind), LOCAL, *PROVIDERS}
    config = (read_json(files.config) or {}).get("config") or {}
    known |= (config.get("providers") or {}).keys()
    if source is None or source in known:
        return
    with reading(files.journal) as db:
        if db.execute("SELECT 1 FROM completions WHERE source=? LIMIT 1", (source,)).fetchone():
            return
    guess = nearest(source, known)
    hint = f"; did you mean {guess}?" if guess else f". Use a kind ({', '.join(map(str, Kind))}) or a provider"
    raise UsageError(f"unknown source {source!r}{hint}", next="swarmctl rollouts stats")


@dataclass(frozen=True, slots=True)
class Hint:
    """An API's hint for a question."""

    text: str
    provider: str
    model: str
    usd: float
    refused: str | None
    """Why it was not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """One completion with its prompt, or a slot of a group that was given up. Unknown values are None."""

    swarm: str
    round: int
    """Counted from 1, as everywhere that people read. (The journal counts from 0.)"""
    stage: str
    task: str | None = None
    question: str
    messages: tuple[Mapping[str, str], ...] | None = None
    place: int
    """The slot, in the journal's numbering: peers' groups follow the node's own."""
    text: str | None = None
    truncated: bool | None = None
    outcome: float | None = None
    strict: bool | None = None
    why: str | None = None
    terms: tuple[RewardTerm, ...] | None = None
    """The terms of the reward, if there is more than the outcome."""
    turns: tuple[Turn, ...] | None = None
    """The turns of a conversation with an environment."""
    kind: str | None = None
    provider: str | None = None
    model: str | None = None
    version: int | None = None
    """Number of optimizer steps of the weights that generated it, or of the node's weights if another model did."""
    usd: float | None = None
    time: float | None = None
    position: int = -1
    """Position of the prompt within its stage."""
    hint: Hint | None = None
    """The hint that the prompt showed, or that was refused. Rows have its text."""
    lost: str | None = None
    """Why the slot was given up."""

    @property
    def correct(self) -> bool:
        return self.outcome is not None and self.outcome >= FULL_CREDIT


ROW = ("node", *(field.name for field in fields(RolloutRecord) if field.name not in ("position", "lost")))
"""The keys of every output row, in order."""


def node_model(files: NodeFiles) -> str | None:
    """Return the name of the node's own model; None if its files do not contain it."""
    for record in (read_json(files.identity), (read_json(files.config) or {}).get("config")):
        name = ((record or {}).get("model") or {}).get("name")
        if name is not None:
            return str(without_keys(str(name)))
    return None


def rollouts(files: NodeFiles, wanted: RolloutFilter) -> Iterator[RolloutRecord]:
    """Yield a node's matching rollouts, oldest round first. Raises ``NodeError`` if they cannot be read."""
    own_model = node_model(files)
    with reading(files.journal) as db:
        moments = {each for table in ("completions", "lost") for each in _moments(db, table)}
        in_order = sorted((each for each in moments if wanted.round in (None, each[1] + 1)), key=itemgetter(1, 0))
        if wanted.last is None:
            for moment in in_order:
                yield from _of_round(db, *moment, wanted, own_model)
            return
        found: list[RolloutRecord] = []
        while in_order and len(found) < wanted.last:
            found = [*_of_round(db, *in_order.pop(), wanted, own_model), *found]
        yield from found[max(0, len(found) - wanted.last) :]


def as_row(rollout: RolloutRecord, node: str) -> dict[str, Any]:
    """Return a rollout as an output row."""
    from hivemind_exp.journal.records import index_in_group  # imported here: counts do not need it

    row = asdict(rollout) | {"node": node, "place": index_in_group(rollout.place)}
    row["time"] = None if rollout.time is None else rfc3339(rollout.time)
    row["hint"] = rollout.hint and rollout.hint.text
    return {key: row[key] for key in ROW}


def _moments(db: sqlite3.Connection, table: str) -> Iterator[tuple[str, int]]:
    """Yield each swarm and round in a table, stepping along its key without reading the texts."""
    moment = ("", -1)
    while found := db.execute(_NEXT.format(table=table), moment).fetchone():
        yield (moment := found)


def _of_round(
    db: sqlite3.Connection, swarm: str, round_: int, wanted: RolloutFilter, own_model: str | None
) -> list[RolloutRecord]:
    with decoding(round_):
        return _decoded(db, swarm, round_, wanted, own_model)


def _decoded(
    db: sqlite3.Connection, swarm: str, round_: int, wanted: RolloutFilter, own_model: str | None
) -> list[RolloutRecord]:
    prompts: dict[tuple[str, str], dict[str, Any]] = {}
    for prompt in _dicts(db, _PROMPTS, (swarm, round_)):
        prompt["messages"] = tuple(json.loads(prompt["messages"]))
        prompts.setdefault((prompt.pop("stage"), prompt.pop("question")), prompt)

    def record(row: dict[str, Any]) -> RolloutRecord:
        return RolloutRecord(swarm=swarm, round=round_ + 1, **prompts.get((row["stage"], row["question"]), {}), **row)

    where = (swarm, round_, len(wanted.question), wanted.question)
    hints = {row.pop("question"): Hint(**row) for row in _dicts(db, _HINTS, where)}
    found, places = [], dict[str, int]()
    # An older journal lacks some columns; the node adds them at its next start.
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(completions)")}
    later = {name: name if name in known else "NULL" for name in ("terms", "conversation")}
    for row in _dicts(db, _COMPLETIONS.format(**later), where):
        row["truncated"] = bool(row["truncated"])
        row["strict"] = None if row["strict"] is None else bool(row["strict"])
        row["terms"] = row["terms"] and tuple(RewardTerm(*term) for term in json.loads(row["terms"]))
        row["turns"] = row["turns"] and unpacked(row["turns"])[0]
        if row["model"] is None and row["provider"] == LOCAL:
            row["model"] = own_model
        if row["kind"] != Kind.PEER:
            places[row["question"]] = max(places.get(row["question"], 0), row["place"] + 1)
        rollout = record(row | {"hint": hints.get(row["question"]) if row["kind"] == Kind.HINTED else None})
        if wanted.source in (None, rollout.kind, rollout.provider) and (rollout.correct or not wanted.correct):
            found.append(rollout)
    if wanted.lost and wanted.source is None:
        found += map(record, _dicts(db, _LOST, where))
        found += map(record, _without_hint(hints, places))
    return sorted(found, key=lambda each: (each.stage, each.position, each.question, each.place))


def _without_hint(hints: Mapping[str, Hint], places: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield a lost slot for each refused hint. ``places``: each question's first slot after the filled ones."""
    for question, hint in hints.items():
        if hint.refused is not None:
            lost = f"the hint is {hint.refused}"
            yield {
                "stage": "answer",
                "question": question,
                "place": places.get(question, 0),
                "hint": hint,
                "lost": lost,
            }


def _dicts(db: sqlite3.Connection, query: str, parameters: tuple[object, ...]) -> Iterator[dict[str, Any]]:
    cursor = db.execute(query, parameters)
    names = [name for name, *_ in cursor.description]
    return (dict(zip(names, values, strict=True)) for values in cursor)
