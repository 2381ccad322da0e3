"""Helpers to test batches against the misbehaving server: faster polling, and checks of both ledgers."""

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
    """Poll batches every few hundredths of a second."""
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_FIRST_POLL_S", 0.01), ("_LONGEST_POLL_S", 0.03), ("_LISTED_S", 0.2), ("_FULL_S", 0.05)):
        monkeypatch.setattr(batch_job, name, seconds)


def lines(server: ApiServer | RemoteServer) -> list[Entry]:
    """Return the batch lines that the server received."""
    return [entry for entry in server.ledger.entries if entry.endpoint == "batch_line"]


def batches(server: ApiServer | RemoteServer) -> int:
    """Return how many batches have lines in the server's ledger."""
    return len({entry.batch for entry in lines(server)})


def assert_paid(server: ApiServer | RemoteServer, ledger: Path, **others: Any) -> None:
    """Assert that the node's ledger matches the server's: the probe at full price, batches at half."""
    assert accounts(ledger) == {"settled": pytest.approx(server.usd(PRICE_IN, PRICE_OUT), abs=1e-12), **others}


def states(ledger: Path) -> Counter[str]:
    """Return the number of batches in the ledger, by state."""
    with sqlite3.connect(ledger) as db:
        return Counter(state for (state,) in db.execute("SELECT state FROM batch_jobs"))


def filled(rig: Rig) -> list[int]:
    """Return the number of filled slots of each question, in order."""
    return [len(places) for _, places in sorted(rig.texts().items())]
