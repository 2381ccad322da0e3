"""Thousands of requests to a server that fails one in five: nothing is lost or duplicated, and the accounts match."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from hivemind_exp.offload.engine import TRIES
from hivemind_exp.providers import Group
from tests.support.engine_rig import GROUPS, PRICE_IN, PRICE_OUT, SAMPLING, Rig, endpoint, engine, order
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.ledger import Entry, Outcome, Snapshot
from tests.support.fake_api.remote import api_process

pytestmark = pytest.mark.slow

REQUESTS = 2000
PLACES = 4
MUTE = 50
"""One of this many questions never gets a usable answer."""
_UNSAID = (Fault.NO_USAGE, Fault.NEGATIVE_USAGE, Fault.STRING_USAGE, Fault.CHOICES_NOT_LIST)
"""Answers without valid usage."""


@pytest.mark.parametrize("group", GROUPS)
def test_soak_loses_and_duplicates_nothing_and_costs_match_the_server(tmp_path: Path, group: Group) -> None:
    count = REQUESTS // PLACES
    with (
        api_process(seed=7, fault_rate=0.2, latency=0.005, predicate=f"{__name__}:mute") as server,
        engine(tmp_path, endpoint(server.base_url, group=group)) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(number, PLACES) for number in range(count)])
        books = server.ledger
    assert len(books.chats) > (count if group == "n" else REQUESTS)
    assert 0.15 < sum(books.faults().values()) / len(books.chats) < 0.3
    assert books.outcomes()["abandoned"] == 0
    _nothing_lost(rig, books, count)
    _nothing_doubled(rig, books)
    _accounts_agree(rig, books)


def mute(ask: Ask) -> Fault | None:
    words = str(ask.messages[-1]["content"]).split()
    return Fault.EMPTY if words[0] == "question" and int(words[1]) % MUTE == 0 else None


def _nothing_lost(rig: Rig, books: Snapshot, count: int) -> None:
    """Every slot is filled, or recorded as lost if the server's log shows that it never got a usable answer."""
    filled = {(question, place) for question, places in rig.texts().items() for place in places}
    with sqlite3.connect(rig.journal) as db:
        lost = set(db.execute("SELECT question, idx FROM lost"))
    assert not filled & lost
    assert filled | lost == {(f"question {number}", place) for number in range(count) for place in range(PLACES)}
    asked: dict[str, list[Entry]] = {}
    for entry in books.chats:
        asked.setdefault(entry.messages[-1]["content"], []).append(entry)
    for question in {question for question, _ in lost}:
        assert sum(not _useful(entry) for entry in asked[question]) >= TRIES
    assert {question for question, _ in lost} >= {f"question {number}" for number in range(0, count, MUTE)}


def _useful(entry: Entry) -> bool:
    spoilt = (Fault.FILTERED, Fault.CHOICES_NOT_LIST)
    return entry.outcome is Outcome.DELIVERED and any(entry.texts) and entry.fault not in spoilt


def _nothing_doubled(rig: Rig, books: Snapshot) -> None:
    """Every text in the journal was delivered completely, once, for the prompt under which it is recorded."""
    prompts = {entry.digest: entry.messages[-1]["content"] for entry in books.chats}
    sent = Counter(
        (prompts[digest], text) for digest, texts in books.texts(Outcome.DELIVERED).items() for text in texts
    )
    kept = Counter((question, text) for question, places in rig.texts().items() for text in places.values())
    assert set(kept.values()) == {1}
    assert {sent[text] for text in kept} == {1}


def _accounts_agree(rig: Rig, books: Snapshot) -> None:
    """Settled costs equal the server's bill for answers with usage; kept reserves cover the rest of the bill."""
    said = books.where(lambda entry: entry.outcome is Outcome.DELIVERED and entry.fault not in _UNSAID)
    rest = books.where(lambda entry: entry.outcome is not Outcome.DELIVERED or entry.fault in _UNSAID)
    accounts = rig.accounts()
    assert accounts["settled"] == pytest.approx(said.usd(PRICE_IN, PRICE_OUT), abs=1e-9)
    assert accounts["kept"] >= rest.usd(PRICE_IN, PRICE_OUT) > 0
    assert set(accounts) == {"settled", "kept", "void"}
    assert accounts["void"] == 0
    longest = max(sum(len(message["content"]) + 64 for message in entry.messages) for entry in books.chats)
    most = (longest * PRICE_IN + PLACES * SAMPLING.max_tokens * PRICE_OUT) / 1e6
    unsure = [entry for entry in rest.chats if entry.completion_tokens or entry.fault in (Fault.HTML_OK, Fault.CLOSE)]
    assert accounts["kept"] <= most * len(unsure)
