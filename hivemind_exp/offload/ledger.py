"""What requests cost, and the node's ledger of them (SQLite): reserved before they go out, settled when they come back.

Prices come from the profile, or from genai-prices, which is shipped and asks no network. What was in flight when a node
died counts as spent in full; what is in a batch is collected by its next start (``batch.job``). The ledger outlives
everything else of a node, also one that starts over at every run: its cap is for the node's whole life.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
"""Part of its price that a token costs in a batch."""
_MANY = 10_000_000
"""Tokens beyond every tier: what a token costs there is the most it can cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the service reports them."""

    prompt: int
    completion: int
    """Hidden reasoning included."""
    cached: int = 0
    """Part of ``prompt`` that came from the service's cache."""
    reasoning: int = 0
    """Part of ``completion`` that nobody sees."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars a token."""

    input: float
    output: float
    """The highest rate that may apply, at any hour and size: what a reservation is made at."""
    known: tuple[Provider, ModelInfo] | None = None
    """The row of genai-prices, which knows of tiers, hours and cached input."""

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
        """Return dollars for what was used in a batch.

        Cached input counts as any other: whether its discount holds in batches depends on the model, and a cap must
        hold for every one.
        """
        return BATCH_SHARE * self.cost(replace(usage, cached=0))

    @property
    def free(self) -> bool:
        return self.input == self.output == 0


def price_of(endpoint: Endpoint, given: Mapping[str, PriceConfig]) -> Price | None:
    """Return what an endpoint costs; None where nobody knows."""
    own = given.get(endpoint.name)
    if own is not None:
        return Price(own.input / 1e6, own.output / 1e6)
    if endpoint.chat.free:
        return Price(0.0, 0.0)
    return None if endpoint.chat.prices is None else _listed(endpoint.chat.prices, endpoint.model)


def bounded_price(endpoint: Endpoint, given: Mapping[str, PriceConfig], *, capped: bool) -> Price:
    """Return what an endpoint costs.

    Raises ``ConfigurationError`` where a cap is to be kept and cannot: the price is not known, with the line to add, or
    the model thinks without bound. Without a cap an unknown price counts as nothing.
    """
    price = price_of(endpoint, given)
    if not capped:
        return price or Price(0.0, 0.0)
    line = f"offload.prices.{endpoint.name}"
    if price is None:
        raise ConfigurationError(
            f"the price of {endpoint.label} is not known, so no cap can be kept. Say what a million tokens cost, such "
            f"as [{line}] input = 0.15, output = 0.60 in the profile, or lift the cap: offload.limits.usd = "
            '"unlimited" without usd_per_day',
            next=f"swarmctl run --offload {endpoint.label} --set {line}.input=0.15 --set {line}.output=0.60",
        )
    if endpoint.reasons and not endpoint.chat.bounds_reasoning and not price.free:
        raise ConfigurationError(
            f"{endpoint.label} thinks unseen and without bound, so no cap can be kept: ask a model that does not, or "
            'lift the cap: offload.limits.usd = "unlimited" without usd_per_day',
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
"""State of a request that is in a batch: it outlives the node's process."""
BYTES_A_MESSAGE = 64
"""Tokens of a message that are not its text: at most so many, role and framing."""
_DAY = 86400
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
    """Choices asked for."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars set aside for one request."""

    number: int
    key: RequestKey
    usd: float
    day: int
    """Days since the epoch (UTC): whose daily cap it counts against."""
    batched: bool = False
    """Whether the request is in a batch."""


def worst_case(price: Price, contents: Sequence[str], count: int, max_tokens: int) -> float:
    """Return dollars that a request can cost at most: no token is less than a byte, no choice longer than it may be."""
    prompt = sum(len(content.encode()) + BYTES_A_MESSAGE for content in contents)
    return prompt * price.input + count * max_tokens * price.output


class Ledger:
    """Keeps a node's spending under its caps. For one thread."""

    def __init__(self, path: Path, limits: LimitsConfig) -> None:
        """Open the ledger; what a dead process left open becomes kept. Raises ``NodeError`` where that fails."""
        self._limits = limits
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "UPDATE requests SET state='kept', fault='in flight when the node died' WHERE state='open'"
            )
            self._spent = total_spent(self._db)
            self._day, self._spent_today = 0, 0.0
        except sqlite3.Error as error:
            raise _explain(error, path) from error
        self._path = path

    @property
    def spent(self) -> float:
        """Dollars spent, reserves of open requests and of unknown outcomes included."""
        return self._spent

    @property
    def cap(self) -> float | None:
        return None if self._limits.usd == "unlimited" else self._limits.usd

    @property
    def capped(self) -> bool:
        """Whether any cap is to be kept, also one for each day alone."""
        return self._limits.capped

    def check(self, usd: float, what: str = "request") -> None:
        """Raise ``LimitReached`` where ``usd`` more would break a cap; ``what`` is to cost them.

        What costs nothing is never refused: a cap may be lower than what was spent before it was set.
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
                    f"the next {what} may cost {usd:.4f} USD, and {spent:.4f} of offload.limits.{name} = "
                    f"{_shown(cap)} USD are spent{when}",
                    next=f"swarmctl run {option}{_raised(cap, spent + usd):g}",
                    until=until,
                )

    def reserve(self, ask: RequestKey, usd: float, *, state: str = "open") -> Reservation:
        """Set ``usd`` aside for a request, durably. Raises ``LimitReached``."""
        self.check(usd)
        cursor = self.execute(
            "INSERT INTO requests (t, provider, model, round, stage, question, asked, state, reserved, usd) "
            "VALUES (?,?,?,?,?,?,?,?,?,0)",
            (time.time(), ask.provider, ask.model, ask.round, ask.stage, ask.question, ask.count, state, usd),
        )
        reservation = Reservation(int(cursor.lastrowid or 0), ask, usd, self._day, state == BATCHED)
        self._add(usd, reservation.day)
        return reservation

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write what is executed inside all or not at all, and so that no power cut undoes it."""
        spent = self._spent
        self.execute("PRAGMA synchronous=FULL")
        try:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                self._spent, self._day = spent, 0  # the day's sum is made anew
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

    def keep(self, reservation: Reservation, fault: str) -> None:
        """Record that nobody knows what a request cost: its reserve stays spent."""
        self.execute("UPDATE requests SET state='kept', fault=? WHERE id=?", (fault, reservation.number))

    def release(self, reservation: Reservation, fault: str) -> None:
        """Record that the service did nothing for a request: it cost nothing."""
        self.execute("UPDATE requests SET state='void', reserved=0, fault=? WHERE id=?", (fault, reservation.number))
        self._add(-reservation.usd, reservation.day)

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement. Raises ``NodeError``."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise _explain(error, self._path) from error

    def close(self) -> None:
        self._db.close()

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
    """Return the dollars of a ledger, with the reserves of open requests and of unknown outcomes."""
    query = f"SELECT TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests WHERE {where}"
    return float(db.execute(query).fetchone()[0])


def _shown(cap: float) -> str:
    return f"{cap:.2f}" if cap >= 0.01 else f"{cap:g}"


def _raised(cap: float, needed: float) -> float:
    """Return a cap, above the present one, under which the node can go on."""
    while cap < needed:
        cap *= 2
    return cap


def _explain(error: sqlite3.Error, path: Path) -> NodeError:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return DiskFull(f"no space left for the ledger {path}", next=f"df -h {path.parent}")
    return NodeError(f"the ledger {path} cannot be used: {text}", next=f"ls -l {path}")
