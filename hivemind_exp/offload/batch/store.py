"""The ledger's page for batches: what is with a service, so that no start of the node submits it again."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hivemind_exp.offload.api.batch import Line
from hivemind_exp.offload.ledger import BATCHED, Ledger, RequestKey, Reservation

_DAY = 86400
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS batch_jobs (
    tag TEXT PRIMARY KEY, provider TEXT, model TEXT, round INTEGER, stage TEXT, state TEXT, file TEXT, id TEXT, t REAL
    )""",
    """CREATE TABLE IF NOT EXISTS batch_lines (
    request INTEGER PRIMARY KEY, tag TEXT, places TEXT, version INTEGER
    )""",
)


class State(StrEnum):
    """How far a batch is, as far as this node knows."""

    NEW = "new"
    """Its dollars are set aside; the service has not been asked to begin it."""
    ASKED = "asked"
    """The service was or will be asked to begin it; whether it did shows its listing."""
    RUNNING = "running"
    """The service gave it an id."""
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Item:
    """One line, and its bill."""

    line: Line
    reservation: Reservation


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that are with a service together."""

    tag: str
    """Our own name for it, which the service keeps with it."""
    round: int
    stage: str
    items: list[Item]
    state: State = State.NEW
    file: str = ""
    id: str = ""
    asked: float = field(default_factory=time.time)
    """When the service was asked to begin it (Unix seconds)."""
    done: int = 0
    """Requests answered so far, as the service says."""
    changes: int = -1
    """Those of the style that it is asked in; -1 for one of an earlier start."""


@dataclass(frozen=True, slots=True)
class OrphanedBatch:
    """Requests in batches of a model that nobody collects."""

    provider: str
    model: str
    requests: int
    usd: float
    """Set aside."""


class BatchStore:
    """Keeps the batches of one provider and model. For the ledger's thread."""

    def __init__(self, ledger: Ledger, provider: str, model: str) -> None:
        """Use ``ledger``. Raises ``NodeError``."""
        self._ledger = ledger
        self._provider = provider
        self._model = model
        for statement in _SCHEMA:
            ledger.execute(statement)

    def open(self, lines: Sequence[tuple[Line, float]]) -> Batch:
        """Set aside what each line may cost and record the batch, all or nothing. Raises ``LimitReached``."""
        self._ledger.check(sum(usd for _, usd in lines), "batch")
        first = lines[0][0]
        batch = Batch(secrets.token_hex(16), first.round, first.stage, [])
        with self._ledger.transaction():
            self._ledger.execute(
                "INSERT INTO batch_jobs VALUES (?,?,?,?,?,?,'','',?)",
                (batch.tag, self._provider, self._model, batch.round, batch.stage, batch.state, batch.asked),
            )
            batch.items = [self._write(batch.tag, line, usd) for line, usd in lines]
        return batch

    def about_to_begin(self, batch: Batch, file: str) -> None:
        """Record that the service is now asked to begin a batch, before it is."""
        batch.file, batch.asked = file, time.time()
        with self._ledger.transaction():
            self._update(batch, State.ASKED)

    def begun(self, batch: Batch, id: str) -> None:
        """Record the service's name for a batch."""
        batch.id = id
        with self._ledger.transaction():
            self._update(batch, State.RUNNING)

    def over(self, batch: Batch) -> None:
        """Record that all lines of a batch are settled, kept or released."""
        self._update(batch, State.OVER)

    def pending(self) -> list[Batch]:
        """Return the model's batches that are not over."""
        rows = self._ledger.execute(
            "SELECT tag, round, stage, state, file, id, t FROM batch_jobs "
            "WHERE provider=? AND model=? AND state!=? ORDER BY t",
            (self._provider, self._model, State.OVER),
        ).fetchall()
        return [
            Batch(tag, round_, stage, self._items(tag), State(state), file, id_, asked)
            for tag, round_, stage, state, file, id_, asked in rows
        ]

    def _items(self, tag: str) -> list[Item]:
        """Return the lines of a batch that are not paid yet."""
        rows = self._ledger.execute(
            "SELECT id, t, round, stage, question, asked, reserved, places, version "
            "FROM batch_lines JOIN requests ON id=request WHERE tag=? AND state=? ORDER BY id",
            (tag, BATCHED),
        )
        return [
            Item(
                line := Line(round_, stage, question, tuple(json.loads(places)), version),
                Reservation(number, self._key(line, asked), reserved, int(t // _DAY), batched=True),
            )
            for number, t, round_, stage, question, asked, reserved, places, version in rows
        ]

    def _write(self, tag: str, line: Line, usd: float) -> Item:
        reservation = self._ledger.reserve(self._key(line, len(line.places)), usd, state=BATCHED)
        self._ledger.execute(
            "INSERT INTO batch_lines VALUES (?,?,?,?)",
            (reservation.number, tag, json.dumps(line.places), line.version),
        )
        return Item(line, reservation)

    def _key(self, line: Line, count: int) -> RequestKey:
        return RequestKey(self._provider, self._model, line.round, line.stage, line.question, count)

    def _update(self, batch: Batch, state: State) -> None:
        batch.state = state
        self._ledger.execute(
            "UPDATE batch_jobs SET state=?, file=?, id=?, t=? WHERE tag=?",
            (batch.state, batch.file, batch.id, batch.asked, batch.tag),
        )


def orphaned_batches(ledger: Ledger, collected: tuple[str, str] | None) -> list[OrphanedBatch]:
    """Return what is in batches of other models than ``collected``, a provider and its model."""
    rows = ledger.execute(
        "SELECT provider, model, COUNT(*), TOTAL(reserved) FROM requests WHERE state=? GROUP BY provider, model "
        "ORDER BY provider, model",
        (BATCHED,),
    )
    return [OrphanedBatch(*row) for row in rows if row[:2] != collected]
