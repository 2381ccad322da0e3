"""kill -9 of the process that offloads: completions in the journal are never requested again, no dollar is lost."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from hivemind_exp.config import LimitsConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.ledger import Ledger
from hivemind_exp.providers import Group
from hivemind_exp.rollouts.types import CompletionRequest
from tests.support.engine_rig import (
    GROUPS,
    PRICE_IN,
    PRICE_OUT,
    SWARM,
    accounts,
    endpoint,
    engine,
    order,
    texts,
)
from tests.support.fake_api.ledger import Outcome, Snapshot
from tests.support.fake_api.remote import api_process
from tests.support.restarts import finished, killed, processes

pytestmark = pytest.mark.slow

ORDERS, PLACES = 60, 4
KILLS = 8
STEP = 16
"""A node is killed after fewer new completions than this, so that it is seldom done before the last kill."""
Texts = dict[str, dict[int, str]]


def offload(root: Path, base_url: str, group: Group) -> None:
    """Fill the slots that the journal does not have yet. Runs in a separate process."""
    with engine(root, endpoint(base_url, group=group), concurrency=8 if group == "fan_out" else 3) as rig:
        rig.run(missing(rig.texts()))


def missing(held: Texts) -> list[CompletionRequest]:
    wanted = []
    for number in range(ORDERS):
        whole = order(number, PLACES)
        places = tuple(place for place in whole.indices if place not in held.get(whole.question, {}))
        if places:
            wanted.append(CompletionRequest(0, whole.stage, whole.question, whole.messages, places, version=0))
    return wanted


def count(journal: Path) -> int:
    with sqlite3.connect(journal) as db:
        return int(db.execute("SELECT COUNT(*) FROM completions").fetchone()[0])


def unsettled(ledger: Path) -> int:
    """Return how many requests were in flight at a kill. Their reserve is kept."""
    with sqlite3.connect(ledger) as db:
        return int(db.execute("SELECT COUNT(*) FROM requests WHERE state = 'kept'").fetchone()[0])


@pytest.mark.parametrize("group", GROUPS)
def test_kill_9_at_many_moments_requests_nothing_twice(tmp_path: Path, group: Group) -> None:
    root, chance = tmp_path / "node", random.Random(group)
    journal, ledger = root / "journal.sqlite", root / "ledger.sqlite"
    root.mkdir()
    Journal(journal, SWARM).close()
    Ledger(ledger, LimitsConfig()).close()
    forkserver = processes()
    kills, seen = 0, 0
    with api_process(latency=0.1) as server:
        for life in range(KILLS + 1):
            held = texts(journal)
            child = (forkserver, offload, root, server.base_url, group)
            if life < KILLS:
                # Except in the first life, kill only after an answer has arrived: by then others are in flight.
                wanted, pause = count(journal) + chance.randrange(min(life, 1), STEP), chance.uniform(0, 0.03)
                kills += killed(*child, when=lambda: count(journal) >= wanted, pause_s=pause)  # noqa: B023 - called at once
            else:
                finished(*child)
            books, kept = server.settled(), texts(journal)
            for question, places in held.items():
                assert places.items() <= kept[question].items()
            _asked_only_for_what_was_missing(books, seen, held)
            _each_text_was_sent_once(books, kept)
            assert sum(accounts(ledger).values()) >= books.usd(PRICE_IN, PRICE_OUT) - 1e-12
            seen = len(books.chats)
    assert kills >= KILLS // 2
    assert {len(places) for places in kept.values()} == {PLACES}
    assert len(kept) == ORDERS
    assert unsettled(ledger) >= kills // 2  # otherwise the kills hit no requests in flight
    assert set(accounts(ledger)) == {"settled", "kept"}


def _asked_only_for_what_was_missing(books: Snapshot, seen: int, held: Texts) -> None:
    asked: Counter[str] = Counter()
    for entry in books.chats[seen:]:
        asked[entry.messages[-1]["content"]] += entry.n
    for question, choices in asked.items():
        assert choices <= PLACES - len(held.get(question, {})) or "2 + 3" in question


def _each_text_was_sent_once(books: Snapshot, kept: Texts) -> None:
    sent = Counter(text for found in books.texts(Outcome.DELIVERED).values() for text in found)
    for places in kept.values():
        for text in places.values():
            assert sent[text] == 1
