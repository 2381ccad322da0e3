"""Batches against the misbehaving server: faster than in life, and what the node's and the server's books say."""

from __future__ import annotations

import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.offload.batch import job as batch_job
from tests.support import waiting
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, Rig, accounts
from tests.support.fake_api.ledger import Entry
from tests.support.fake_api.remote import RemoteServer
from tests.support.fake_api.server import ApiServer

until = partial(waiting.until, seconds=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at batches every few hundredths of a second."""
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_FIRST_POLL_S", 0.01), ("_LONGEST_POLL_S", 0.03), ("_LISTED_S", 0.2), ("_FULL_S", 0.05)):
        monkeypatch.setattr(batch_job, name, seconds)


def lines(server: ApiServer | RemoteServer) -> list[Entry]:
    """Return the lines of batches that the server was asked."""
    return [entry for entry in server.ledger.entries if entry.endpoint == "batch_line"]


def batches(server: ApiServer | RemoteServer) -> int:
    """Return how many batches the server did something for."""
    return len({entry.batch for entry in lines(server)})


def assert_paid(server: ApiServer | RemoteServer, ledger: Path, **others: Any) -> None:
    """Assert that the node's books are the server's: the probe at full price, what was in batches at half."""
    assert accounts(ledger) == {"settled": pytest.approx(server.usd(PRICE_IN, PRICE_OUT), abs=1e-12), **others}


def states(ledger: Path) -> Counter[str]:
    """Return how many batches the ledger holds, by state."""
    with sqlite3.connect(ledger) as db:
        return Counter(state for (state,) in db.execute("SELECT state FROM batch_jobs"))


def filled(rig: Rig) -> list[int]:
    """Return how many places each question has, in order."""
    return [len(places) for _, places in sorted(rig.texts().items())]
