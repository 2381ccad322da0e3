"""The node's ledger (SQLite): money is reserved before a request and settled by its answer.

Requests in flight when a node dies count as spent in full. Requests in a batch are collected at the node's next start
(``batch.job``). The ledger outlives everything else of a node, even a node that starts over at every run: the cap is
for the node's whole life.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from typing import Protocol

from hivemind_exp import formats
from hivemind_exp.config import LimitsConfig
from hivemind_exp.errors import FileProblem, LimitReached, NodeError
from hivemind_exp.full_disk import disk_full, lacks_inodes
from hivemind_exp.list_command import list_command
from hivemind_exp.money import digits, dollars
from hivemind_exp.offload.prices import PromptBound, Usage

BATCHED = "batched"
"""State of a request in a batch, which outlives the node's process."""
_DAY = 86400
ROUNDING = 1e-9
"""Dollars by which two sums of the same requests may differ."""
_UNCAPPED_STEP = 5.0
"""Without a cap, the total is saved as if this were the cap, in dollars."""
_SAVE_EVERY_S = 1.0
"""How often the total is saved so that a power cut cannot undo it, in seconds."""
_PENDING = "SELECT TOTAL(reserved) FROM requests WHERE state=?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, t REAL, provider TEXT, model TEXT, round INTEGER, stage TEXT, question TEXT,
    asked INTEGER, state TEXT, reserved REAL, usd REAL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, reasoning_tokens INTEGER, fault TEXT
);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (t);
"""


@dataclass(frozen=True, slots=True)
class Total:
    """A node's total, as saved outside the ledger."""

    usd: float = 0.0
    """Dollars spent, without reserves that may still be released."""
    reserved: float = 0.0
    """Dollars reserved for open requests and batches."""
    requests: int = 0
    """The number of the latest request. A ledger without it has lost data."""

    def most(self) -> float:
        """Return the most that was spent, in dollars."""
        return self.usd + self.reserved


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a request is for."""

    provider: str
    model: str
    round: int
    stage: str
    question: str
    count: int
    """Number of choices requested."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars reserved for one request."""

    number: int
    key: RequestKey
    usd: float
    day: int
    """The day (UTC, days since the epoch) whose daily cap it counts toward."""
    batched: bool = False
    """Whether the request is in a batch."""
    prompt: PromptBound | None = None
    """The prompt tokens that are reserved; None for a request in a batch."""
    completion: int | None = None
    """The tokens that are reserved for each choice; None for a request in a batch."""


class SaveTotal(Protocol):
    """Saves a node's total outside the ledger. Raises ``OSError``."""

    def __call__(self, total: Total, *, durable: bool) -> None:
        """With ``durable``, a power cut must not undo it. The first call has it."""


class Ledger:
    """Keeps a node's spending under its caps. Use it from one thread."""

    def __init__(
        self,
        path: Path,
        limits: LimitsConfig,
        save_total: SaveTotal | None = None,
        *,
        round_requests: int = 1,
    ) -> None:
        """Open the ledger and mark requests that a dead process left open as ``kept``. Raises ``NodeError``.

        ``round_requests``: requests in a round. A higher cap that an error suggests covers at least so many.
        ``save_total`` is called whenever a request is reserved or settled. It must be durable once a second, whenever
        the total has grown by a hundredth of the cap or more, and at the end.
        """
        self._limits, self._round_requests = limits, round_requests
        self._save_total, self._saved = save_total, Total()
        self._saved_at, self._requests = -math.inf, 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            formats.check_pages(self._db, path)
            formats.check_database(self._db, path)
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "UPDATE requests SET state='kept', fault='in flight when the node died' WHERE state='open'"
            )
            self._spent = total_spent(self._db)
            self._requests = latest_request(self._db)
            self._reserved = float(self._db.execute(_PENDING, (BATCHED,)).fetchone()[0])
            self._day, self._spent_today = 0, 0.0
        except sqlite3.Error as error:
            raise explain(error, path) from error
        self._path = path

    @property
    def requests(self) -> int:
        """The number of the latest request; 0 if none was ever recorded."""
        return self._requests

    def restore(self, usd: float) -> float:
        """Count ``usd``, the node's total according to other records, if it is more. Return what was missing."""
        missing = usd - self._spent
        if missing <= ROUNDING:
            return 0.0
        key = RequestKey("lost", "", -1, "", "", 0)
        self.keep(self.reserve_unchecked(key, missing), "the ledger was lost; known from the node's other records")
        return missing

    @property
    def spent(self) -> float:
        """Dollars spent, including the reserves of open requests and of unknown outcomes."""
        return self._spent

    @property
    def reserved(self) -> float:
        """The part of ``spent`` that is only reserved, for open requests and batches."""
        return max(0.0, self._reserved)

    @property
    def cap(self) -> float | None:
        return None if self._limits.usd == "unlimited" else self._limits.usd

    def state(self) -> dict[str, float | None]:
        """Return the amounts that events report."""
        certain = round(self._spent - self.reserved, 8)
        return {"usd_total": certain, "usd_reserved": round(self.reserved, 8), "usd_cap": self.cap}

    @property
    def capped(self) -> bool:
        """Whether there is any cap, total or daily."""
        return self._limits.capped

    def check(self, usd: float, what: str = "request") -> None:
        """Raise ``LimitReached`` if spending ``usd`` more would exceed a cap. ``what`` names the expense.

        Free requests always pass, since a cap may be set below what is already spent.
        """
        today = self._today()
        if usd == 0:
            return
        more = usd * (self._round_requests if what == "request" else 1)
        daily, tomorrow = self._limits.usd_per_day, (self._day + 1) * _DAY
        for name, cap, spent, when, option, until in (
            ("usd", self.cap, self._spent, "", "--max-usd ", math.inf),
            ("usd_per_day", daily, today, " today (UTC)", "--set offload.limits.usd_per_day=", tomorrow),
        ):
            if cap is not None and spent + usd > cap:
                raise LimitReached(
                    f"spending cap reached: the next {what} may cost up to {dollars(usd)}, and {digits(spent)} of "
                    f"{dollars(cap)} (offload.limits.{name}) is already spent{when}",
                    next=f"swarmctl run {option}{_raised(cap, spent + more):g}",
                    until=until,
                )

    def reserve(
        self,
        ask: RequestKey,
        usd: float,
        *,
        state: str = "open",
        prompt: PromptBound | None = None,
        completion: int | None = None,
    ) -> Reservation:
        """Reserve ``usd`` for a request, durably. Raises ``LimitReached``."""
        self.check(usd)
        return self.reserve_unchecked(ask, usd, state=state, prompt=prompt, completion=completion)

    def reserve_unchecked(
        self,
        ask: RequestKey,
        usd: float,
        *,
        state: str = "open",
        prompt: PromptBound | None = None,
        completion: int | None = None,
    ) -> Reservation:
        """Reserve ``usd`` whatever the caps are: it is already spent."""
        cursor = self.execute(
            "INSERT INTO requests (t, provider, model, round, stage, question, asked, state, reserved, usd) "
            "VALUES (?,?,?,?,?,?,?,?,?,0)",
            (time.time(), ask.provider, ask.model, ask.round, ask.stage, ask.question, ask.count, state, usd),
        )
        number, batched = int(cursor.lastrowid or 0), state == BATCHED
        reservation = Reservation(number, ask, usd, self._day, batched, prompt, completion)
        self._reserved += usd
        self._requests = number
        self._add(usd, reservation.day)
        if not self._db.in_transaction:
            self._note_total()
        return reservation

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything executed inside, or nothing; a power cut cannot undo it."""
        before = self._spent, self._reserved
        self.execute("PRAGMA synchronous=FULL")
        try:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                self._spent, self._reserved = before
                self._day = 0  # makes the next check recompute the day's sum
                if self._db.in_transaction:
                    self.execute("ROLLBACK")
                raise
        finally:
            self.execute("PRAGMA synchronous=NORMAL")

    def settle(self, reservation: Reservation, usage: Usage, usd: float) -> None:
        self.execute(
            "UPDATE requests SET state='settled', usd=?, prompt_tokens=?, cached_tokens=?, completion_tokens=?, "
            "reasoning_tokens=? WHERE id=?",
            (usd, usage.prompt, usage.cached, usage.completion, usage.reasoning, reservation.number),
        )
        self._reserved -= reservation.usd
        self._add(usd - reservation.usd, reservation.day)
        self._note_total()

    def keep(self, reservation: Reservation, fault: str) -> None:
        """Record that a request's cost is unknown: its whole reserve counts as spent."""
        self.execute("UPDATE requests SET state='kept', fault=? WHERE id=?", (fault, reservation.number))
        self._reserved -= reservation.usd
        self._note_total()

    def release(self, reservation: Reservation, fault: str) -> None:
        """Record that the service did no work for a request, so it cost nothing."""
        self.execute("UPDATE requests SET state='void', reserved=0, fault=? WHERE id=?", (fault, reservation.number))
        self._reserved -= reservation.usd
        self._add(-reservation.usd, reservation.day)
        self._note_total()

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises ``NodeError``."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def close(self) -> None:
        self._note_total(last=True)
        self._db.close()

    def _note_total(self, *, last: bool = False) -> None:
        """Save the total elsewhere, too."""
        if self._save_total is None:
            return
        total = Total(self._spent - self.reserved, self.reserved, self._requests)
        grown = total.usd > self._saved.usd + (self.cap or _UNCAPPED_STEP) / 100
        durable = grown or time.monotonic() >= self._saved_at + _SAVE_EVERY_S or (last and total != self._saved)
        with suppress(OSError):  # a copy: the ledger itself reports a full disk
            self._save_total(total, durable=durable)
        if durable:
            self._saved, self._saved_at = total, time.monotonic()

    def _today(self) -> float:
        day = int(time.time() // _DAY)
        if day != self._day:
            self._day, self._spent_today = day, total_spent(self._db, f"t >= {day * _DAY}")
        return self._spent_today

    def _add(self, usd: float, day: int) -> None:
        self._spent += usd
        if day == self._day:
            self._spent_today += usd


def total_spent(db: sqlite3.Connection, where: str = "1") -> float:
    """Return a ledger's total in dollars, including the reserves of open requests and of unknown outcomes."""
    query = f"SELECT TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests WHERE {where}"
    return float(db.execute(query).fetchone()[0])


def _raised(cap: float, needed: float) -> float:
    """Return a cap, above the current one, that lets the node continue."""
    while cap < needed:
        cap *= 2
    return cap


def latest_request(db: sqlite3.Connection) -> int:
    """Return the number of the latest request; 0 if none was ever recorded. The numbers are consecutive."""
    return int(db.execute("SELECT COALESCE(MAX(id), 0) FROM requests").fetchone()[0])


def has_requests(db: sqlite3.Connection) -> bool:
    """Return whether any request was ever recorded. False also for a file that is not a ledger yet."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name='requests'").fetchone() is None:
        return False
    return db.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is not None


def explain(error: sqlite3.Error, path: Path) -> NodeError:
    """Return a failure of the ledger as an error for people."""
    text = str(error)
    if formats.is_damage(error):
        return FileProblem(
            f"the ledger {path} is damaged ({text}). Move it aside: the node's other records show what it has spent",
            next=formats.set_aside(path),
        )
    if "full" in text or "disk I/O" in text or lacks_inodes(path.parent):
        return disk_full(f"the ledger {path}", path.parent)
    if (obstacle := formats.explain_obstacle(IsADirectoryError(EISDIR, text, str(path)))) is not None:
        return obstacle
    return NodeError(f"cannot use the ledger {path}: {text}", next=list_command(path))
