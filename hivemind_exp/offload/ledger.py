"""What requests cost, and the node's ledger (SQLite): money is reserved before a request and settled by its answer.

Prices come from the profile or from genai-prices, which is bundled and needs no network. Requests in flight when a node
dies count as spent in full. Requests in a batch are collected at the node's next start (``batch.job``). The ledger
outlives everything else of a node, even a node that starts over at every run: the cap is for the node's whole life.
"""

from __future__ import annotations

import math
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp.config import LimitsConfig, PriceConfig
from hivemind_exp.errors import ConfigurationError, DiskFull, LimitReached, NodeError
from hivemind_exp.offload.settings import Endpoint

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

BATCH_SHARE = 0.5
"""Price of a token in a batch, as a fraction of its normal price."""
_MANY = 10_000_000
"""A token count beyond every price tier: the price per token there is the highest possible."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, as the service reports them."""

    prompt: int
    completion: int
    """Includes hidden reasoning."""
    cached: int = 0
    """The part of ``prompt`` that came from the service's cache."""
    reasoning: int = 0
    """The part of ``completion`` that is hidden."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token.

    ``input`` and ``output`` are the highest rates that may apply, at any hour and size. Reserves are made at these.
    """

    input: float
    output: float
    known: tuple[Provider, ModelInfo] | None = None
    """The row of genai-prices, which has tiers, hours and cached input."""

    def cost(self, usage: Usage) -> float:
        if self.known is None:
            return usage.prompt * self.input + usage.completion * self.output
        from genai_prices import Usage as Tokens

        provider, model = self.known
        tokens = Tokens(
            input_tokens=usage.prompt,
            output_tokens=usage.completion,
            cache_read_tokens=min(usage.cached, usage.prompt),
        )
        return float(model.calc_price(tokens, provider).total_price)

    def cost_in_batch(self, usage: Usage) -> float:
        """Return the cost in dollars of usage in a batch.

        Cached input counts in full: whether its discount applies in batches depends on the model, and a cap must hold
        for every model.
        """
        return BATCH_SHARE * self.cost(replace(usage, cached=0))

    @property
    def free(self) -> bool:
        return self.input == self.output == 0


def price_of(endpoint: Endpoint, given: Mapping[str, PriceConfig]) -> Price | None:
    """Return an endpoint's price, or None if it is unknown."""
    own = given.get(endpoint.name)
    if own is not None:
        return Price(own.input / 1e6, own.output / 1e6)
    if endpoint.chat.free:
        return Price(0.0, 0.0)
    return None if endpoint.chat.prices is None else _listed(endpoint.chat.prices, endpoint.model)


def bounded_price(endpoint: Endpoint, given: Mapping[str, PriceConfig], *, capped: bool) -> Price:
    """Return an endpoint's price.

    Raises ``ConfigurationError`` if there is a cap that cannot be enforced: the price is unknown (the error gives the
    line to add) or the model's hidden reasoning has no limit. Without a cap, an unknown price counts as zero.
    """
    price = price_of(endpoint, given)
    if not capped:
        return price or Price(0.0, 0.0)
    line = f"offload.prices.{endpoint.name}"
    if price is None:
        raise ConfigurationError(
            f"the price of {endpoint.label} is unknown, so no spending cap can be enforced. Set the price of a million "
            f"tokens in the profile, for example [{line}] input = 0.15, output = 0.60, or lift the cap with "
            'offload.limits.usd = "unlimited" and no usd_per_day.',
            next=f"swarmctl run --offload {endpoint.label} --set {line}.input=0.15 --set {line}.output=0.60",
        )
    if endpoint.reasons and not endpoint.chat.bounds_reasoning and not price.free:
        raise ConfigurationError(
            f"the hidden reasoning of {endpoint.label} has no limit, so no spending cap can be enforced. Use another "
            'model, or lift the cap with offload.limits.usd = "unlimited" and no usd_per_day.',
            next=f"swarmctl run --offload {endpoint.name}",
        )
    return price


def _listed(source: str, name: str) -> Price | None:
    from genai_prices import Usage as Tokens
    from genai_prices import data_snapshot

    try:
        provider, model = data_snapshot.get_snapshot().find_provider_model(name, None, source, None)
    except LookupError:
        return None
    now = datetime.now(UTC)
    many = Tokens(input_tokens=_MANY, output_tokens=_MANY)
    hours = [
        model.calc_price(many, provider, genai_request_timestamp=now + timedelta(hours=hour)) for hour in range(24)
    ]
    return Price(
        input=max(float(hour.input_price) for hour in hours) / _MANY,
        output=max(float(hour.output_price) for hour in hours) / _MANY,
        known=(provider, model),
    )


BATCHED = "batched"
"""State of a request in a batch, which outlives the node's process."""
BYTES_A_MESSAGE = 64
"""Upper bound on a message's tokens besides its text: role and framing."""
_DAY = 86400
_ROUNDING = 1e-9
"""Dollars by which two sums of the same requests may differ."""
_UNCAPPED_STEP = 5.0
_CERTAIN = "SELECT TOTAL(CASE state WHEN 'settled' THEN usd WHEN 'kept' THEN reserved ELSE 0 END) FROM requests"
"""The total without reserves that may still be released."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, t REAL, provider TEXT, model TEXT, round INTEGER, stage TEXT, question TEXT,
    asked INTEGER, state TEXT, reserved REAL, usd REAL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, reasoning_tokens INTEGER, fault TEXT
);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (t);
"""


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


@dataclass(frozen=True, slots=True)
class PromptBound:
    """The most prompt tokens that a service may bill for a request."""

    sent: int
    """For the messages that were sent: a token is at least one byte."""
    added: int = 0
    """For what the service adds to a prompt, as far as earlier answers show it."""

    @classmethod
    def of(cls, contents: Sequence[str], added: int = 0) -> PromptBound:
        return cls(sum(len(content.encode()) + BYTES_A_MESSAGE for content in contents), added)

    @property
    def tokens(self) -> int:
        return self.sent + self.added


def worst_case(price: Price, prompt: PromptBound, count: int, max_tokens: int) -> float:
    """Return the most a request can cost, in dollars: a choice has at most ``max_tokens``."""
    return prompt.tokens * price.input + count * max_tokens * price.output


class Ledger:
    """Keeps a node's spending under its caps. Use it from one thread."""

    def __init__(self, path: Path, limits: LimitsConfig, save_total: Callable[[float], None] | None = None) -> None:
        """Open the ledger and mark requests that a dead process left open as ``kept``. Raises ``NodeError``.

        ``save_total`` is called with the total in dollars, without open reserves, whenever it has grown by a
        hundredth of the cap or more, and at the end.
        """
        self._limits = limits
        self._save_total, self._saved_total = save_total, 0.0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if (damage := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"malformed: {damage}")
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "UPDATE requests SET state='kept', fault='in flight when the node died' WHERE state='open'"
            )
            self._spent = total_spent(self._db)
            self._day, self._spent_today = 0, 0.0
        except sqlite3.Error as error:
            raise explain(error, path) from error
        self._path = path

    @property
    def used(self) -> bool:
        """Whether any request was ever recorded."""
        return has_requests(self._db)

    def restore(self, usd: float) -> float:
        """Count ``usd``, the node's total according to other records, if it is more. Return what was missing."""
        missing = usd - self._spent
        if missing <= _ROUNDING:
            return 0.0
        key = RequestKey("lost", "", -1, "", "", 0)
        self.keep(self.reserve_unchecked(key, missing), "the ledger was lost; known from the node's other records")
        return missing

    @property
    def spent(self) -> float:
        """Dollars spent, including the reserves of open requests and of unknown outcomes."""
        return self._spent

    @property
    def cap(self) -> float | None:
        return None if self._limits.usd == "unlimited" else self._limits.usd

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
        daily, tomorrow = self._limits.usd_per_day, (self._day + 1) * _DAY
        for name, cap, spent, when, option, until in (
            ("usd", self.cap, self._spent, "", "--max-usd ", math.inf),
            ("usd_per_day", daily, today, " today (UTC)", "--set offload.limits.usd_per_day=", tomorrow),
        ):
            if cap is not None and spent + usd > cap:
                raise LimitReached(
                    f"spending cap reached: the next {what} may cost up to {usd:.4f} USD, and {spent:.4f} of "
                    f"{_shown(cap)} USD (offload.limits.{name}) is already spent{when}",
                    next=f"swarmctl run {option}{_raised(cap, spent + usd):g}",
                    until=until,
                )

    def reserve(
        self, ask: RequestKey, usd: float, *, state: str = "open", prompt: PromptBound | None = None
    ) -> Reservation:
        """Reserve ``usd`` for a request, durably. Raises ``LimitReached``."""
        self.check(usd)
        return self.reserve_unchecked(ask, usd, state=state, prompt=prompt)

    def reserve_unchecked(
        self, ask: RequestKey, usd: float, *, state: str = "open", prompt: PromptBound | None = None
    ) -> Reservation:
        """Reserve ``usd`` whatever the caps are: it is already spent."""
        cursor = self.execute(
            "INSERT INTO requests (t, provider, model, round, stage, question, asked, state, reserved, usd) "
            "VALUES (?,?,?,?,?,?,?,?,?,0)",
            (time.time(), ask.provider, ask.model, ask.round, ask.stage, ask.question, ask.count, state, usd),
        )
        reservation = Reservation(int(cursor.lastrowid or 0), ask, usd, self._day, state == BATCHED, prompt)
        self._add(usd, reservation.day)
        return reservation

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything executed inside, or nothing; a power cut cannot undo it."""
        spent = self._spent
        self.execute("PRAGMA synchronous=FULL")
        try:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                self._spent, self._day = spent, 0  # day 0 makes the next check recompute the day's sum
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
        self._add(usd - reservation.usd, reservation.day)
        self._note_total()

    def keep(self, reservation: Reservation, fault: str) -> None:
        """Record that a request's cost is unknown: its whole reserve counts as spent."""
        self.execute("UPDATE requests SET state='kept', fault=? WHERE id=?", (fault, reservation.number))
        self._note_total()

    def release(self, reservation: Reservation, fault: str) -> None:
        """Record that the service did no work for a request, so it cost nothing."""
        self.execute("UPDATE requests SET state='void', reserved=0, fault=? WHERE id=?", (fault, reservation.number))
        self._add(-reservation.usd, reservation.day)

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises ``NodeError``."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def close(self) -> None:
        self._note_total(step=0.0)
        self._db.close()

    def _note_total(self, step: float | None = None) -> None:
        """Save the total elsewhere, too, if it may have grown by ``step`` dollars since the last time."""
        least = (self.cap or _UNCAPPED_STEP) / 100 if step is None else step
        if self._save_total is None or self._spent <= self._saved_total + least:
            return
        total = float(self.execute(_CERTAIN).fetchone()[0])
        if total > self._saved_total + least:
            with suppress(OSError):  # a copy: the ledger itself reports a full disk
                self._save_total(total)
            self._saved_total = total

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


def _shown(cap: float) -> str:
    return f"{cap:.2f}" if cap >= 0.01 else f"{cap:g}"


def _raised(cap: float, needed: float) -> float:
    """Return a cap, above the current one, that lets the node continue."""
    while cap < needed:
        cap *= 2
    return cap


def has_requests(db: sqlite3.Connection) -> bool:
    """Return whether any request was ever recorded. False also for a file that is not a ledger yet."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name='requests'").fetchone() is None:
        return False
    return db.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is not None


def explain(error: sqlite3.Error, path: Path) -> NodeError:
    """Return a failure of the ledger as an error for people."""
    text = str(error)
    if "not a database" in text or "malformed" in text:
        aside = path.with_suffix(".damaged")
        return NodeError(
            f"the ledger {path} is damaged ({text}). Move it aside: the node's other records show what it has spent",
            next=shlex.join(["mv", str(path), str(aside)]),
        )
    if "full" in text or "disk I/O" in text:
        return DiskFull(f"no space left for the ledger {path}", next=f"df -h {shlex.quote(str(path.parent))}")
    return NodeError(f"cannot use the ledger {path}: {text}", next=f"ls -l {shlex.quote(str(path))}")
