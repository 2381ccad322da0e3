"""Run an offloading engine against the misbehaving server, without a trainer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.config import LimitsConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.dialect import SamplingParams
from hivemind_exp.offload.engine import ApiEngine
from hivemind_exp.offload.ledger import Ledger
from hivemind_exp.offload.prices import Price
from hivemind_exp.offload.rate_limit import RateLimiter
from hivemind_exp.offload.request_filler import ApiUse
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.providers import Chat, Group
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag
from tests.support.fake_api.ledger import Entry
from tests.support.recorded_events import Events

PRICE_IN, PRICE_OUT = 2.0, 8.0
"""Dollars per million tokens."""
PRICE = Price(PRICE_IN / 1e6, PRICE_OUT / 1e6)
SAMPLING = SamplingParams(temperature=1.0, max_tokens=64, reasoning_tokens=0, reasoning_effort=None)
SWARM = "swarm"


def endpoint(base_url: str, name: str = "box", model: str = "test-model", **chat: Any) -> Endpoint:
    return Endpoint(name, base_url, model, Chat(**chat), needs_key=False)


@dataclass(frozen=True, slots=True)
class Rig:
    """An engine and its results."""

    offload: ApiEngine
    events: Events
    journal: Path
    ledger: Path
    stop: StopFlag

    def run(self, orders: Sequence[CompletionRequest]) -> None:
        """Submit orders and wait until they are filled."""
        self.offload.submit(orders)
        for round_ in sorted({order.round for order in orders}):
            self.offload.wait(round_)

    @property
    def services(self) -> list[ProviderService | None]:
        """The engine's providers, in order of preference."""
        return self.offload._fillers["offload"].chain

    def texts(self) -> dict[str, dict[int, str]]:
        """Return the texts in the journal, by question and slot."""
        return texts(self.journal)

    def accounts(self) -> dict[str, float]:
        """Return dollars by the state of the requests: settled, kept."""
        return accounts(self.ledger)


def real_chats(server: Any) -> list[Entry]:
    """Return a server's requests without test requests."""
    return [entry for entry in server.ledger.chats if entry.messages != list(TEST_MESSAGES)]


def texts(path: Path) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    with sqlite3.connect(path) as db:
        for question, place, text in db.execute("SELECT question, idx, text FROM completions ORDER BY question, idx"):
            found.setdefault(question, {})[place] = text
    return found


def accounts(path: Path) -> dict[str, float]:
    with sqlite3.connect(path) as db:
        rows = db.execute(
            "SELECT state, TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests GROUP BY state"
        )
        return dict(rows.fetchall())


def order(number: int, places: int = 4, round_: int = 0) -> CompletionRequest:
    question = f"question {number}"
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": question})
    return CompletionRequest(round_, "answer", question, messages, tuple(range(places)), version=0)


@contextmanager
def engine(
    root: Path,
    *endpoints: Endpoint | None,
    price: Price = PRICE,
    kind: Kind = Kind.TEACHER,
    usd: Any = "unlimited",
    usd_per_day: float | None = None,
    on_limit_local: bool = False,
    concurrency: int = 64,
    timeout: float = 5.0,
    key: str | None = None,
    rates: tuple[int | None, int | None] = (None, None),
    sampling: SamplingParams = SAMPLING,
    batched: bool = False,
) -> Iterator[Rig]:
    """Run an engine with a chain of providers; None is this machine. ``batched``: use the first one's Batch API."""
    root.mkdir(parents=True, exist_ok=True)
    events, stop = Events(), StopFlag()
    journal, ledger = root / "journal.sqlite", root / "ledger.sqlite"
    Journal(journal, SWARM).close()

    def make_chain() -> list[ProviderService | None]:
        return [None if each is None else serve(each, batched and not place) for place, each in enumerate(endpoints)]

    def serve(each: Endpoint, batched: bool) -> ProviderService:
        client = ChatClient(each, key, seconds=timeout)
        batches = BatchClient(client, seconds=timeout) if batched else None
        return ProviderService(each, client, RateLimiter(concurrency, *rates), price, batches=batches)

    offload = ApiEngine(
        [ApiUse(make_chain, kind, sampling, on_limit_local=on_limit_local)],
        journal=(journal, SWARM),
        ledger=Ledger(ledger, LimitsConfig(usd=usd, usd_per_day=usd_per_day)),
        emit=events,
        stop=stop,
    )
    offload.start()
    try:
        yield Rig(offload, events, journal, ledger, stop)
    finally:
        offload.close()


GROUPS: tuple[Group, ...] = ("n", "fan_out")
