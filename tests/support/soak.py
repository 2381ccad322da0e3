"""A soak: many requests to a server that fails one in five and keeps its own bill, and the checks afterwards."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.errors import LimitReached
from hivemind_exp.offload.request_filler import TRIES
from hivemind_exp.providers import Group
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, Rig, endpoint, engine, order
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.ledger import Entry, Outcome, Snapshot
from tests.support.fake_api.remote import api_process

PLACES = 4
_TIMELY_S = 2.0
"""Well below the client's time limit for an answer."""
_MUTE = 50
"""One question in this many never gets a usable answer."""
_UNSAID = (Fault.NO_USAGE, Fault.NEGATIVE_USAGE, Fault.STRING_USAGE, Fault.CHOICES_NOT_LIST)
"""Answers without valid usage."""
_SPOILT = (Fault.FILTERED, Fault.CHOICE_ERROR, Fault.CHOICES_NOT_LIST)
"""Answers whose text must not be used."""


@dataclass(frozen=True, slots=True)
class Soak:
    """The records of a soak."""

    rig: Rig
    books: Snapshot
    """The server's own records."""
    questions: int


def soak(root: Path, group: Group, requests: int, *, usd: float | str = "unlimited") -> Soak:
    """Ask for about ``requests`` completions and return the accounts of both sides. With ``usd``, stop at that cap."""
    count = requests // PLACES
    with (
        api_process(seed=7, fault_rate=0.2, latency=0.005, predicate=f"{__name__}:mute") as server,
        engine(root, endpoint(server.base_url, group=group), usd=usd) as rig,
    ):
        with suppress(LimitReached):
            rig.offload.wait_for_probe()
            rig.run([order(number, PLACES) for number in range(count)])
        if usd != "unlimited":
            rig.offload.close()  # settles requests in flight at the cap, or keeps their reserve
        return Soak(rig, server.ledger, count)


def mute(ask: Ask) -> Fault | None:
    words = str(ask.messages[-1]["content"]).split()
    return Fault.EMPTY if words[0] == "question" and int(words[1]) % _MUTE == 0 else None


def check_nothing_lost(done: Soak) -> None:
    """Every slot is filled, or recorded as lost if the server's log shows that its question got no usable answer."""
    filled = {(question, place) for question, places in done.rig.texts().items() for place in places}
    with sqlite3.connect(done.rig.journal) as db:
        lost = set(db.execute("SELECT question, idx FROM lost"))
    assert not filled & lost
    questions = [f"question {number}" for number in range(done.questions)]
    assert filled | lost == {(question, place) for question in questions for place in range(PLACES)}
    asked: dict[str, list[Entry]] = {}
    for entry in done.books.chats:
        asked.setdefault(entry.messages[-1]["content"], []).append(entry)
    for question in {question for question, _ in lost}:
        assert sum(not _useful(entry) for entry in asked[question]) >= TRIES
    assert {question for question, _ in lost} >= set(questions[::_MUTE])


def _useful(entry: Entry) -> bool:
    """Whether the client must have received a usable answer. On a slow machine it may give up on a late one."""
    usable = entry.outcome is Outcome.DELIVERED and any(entry.texts) and entry.fault not in _SPOILT
    return usable and _is_timely(entry)


def _is_timely(entry: Entry) -> bool:
    return entry.ended is not None and entry.ended - entry.started < _TIMELY_S


def check_nothing_doubled(done: Soak) -> None:
    """Every text in the journal was delivered completely, once, for the prompt under which it is recorded."""
    prompts = {entry.digest: entry.messages[-1]["content"] for entry in done.books.chats}
    delivered = done.books.texts(Outcome.DELIVERED).items()
    sent = Counter((prompts[digest], text) for digest, texts in delivered for text in texts)
    kept = Counter((question, text) for question, places in done.rig.texts().items() for text in places.values())
    assert set(kept.values()) == {1}
    assert {sent[text] for text in kept} == {1}


def check_accounts(done: Soak) -> tuple[float, float]:
    """Settled costs equal the server's bill for answers with usage; kept reserves cover the rest of the bill.

    Returns the node's total and the server's bill, in USD.
    """
    said = done.books.where(lambda entry: entry.outcome is Outcome.DELIVERED and entry.fault not in _UNSAID)
    rest = done.books.where(lambda entry: entry.outcome is not Outcome.DELIVERED or entry.fault in _UNSAID)
    accounts = done.rig.accounts()
    # Only the client knows whether it was still waiting for a late answer. On a quiet machine, none is late.
    late = done.books.where(lambda entry: not _is_timely(entry)).usd(PRICE_IN, PRICE_OUT)
    assert -1e-9 <= said.usd(PRICE_IN, PRICE_OUT) - accounts["settled"] < late + 1e-9
    assert accounts["kept"] >= rest.usd(PRICE_IN, PRICE_OUT) > 0
    assert set(accounts) == {"settled", "kept", "void"}
    assert accounts["void"] == 0
    return accounts["settled"] + accounts["kept"], done.books.usd(PRICE_IN, PRICE_OUT)


def check_cap(done: Soak, usd: float) -> tuple[float, float]:
    """Neither the node's total nor the server's bill is over the cap. Returns both, in USD."""
    total, bill = sum(done.rig.accounts().values()), done.books.usd(PRICE_IN, PRICE_OUT)
    assert bill <= total + 1e-9 <= usd + 2e-9
    return total, bill
