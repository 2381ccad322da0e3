"""Nodes killed at any moment of a batch's life and restarted."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.support import batch_child
from tests.support.batch_child import MOMENTS, ORDERS
from tests.support.batching import assert_paid, batches, lines, quick, states
from tests.support.engine_rig import endpoint, engine, order, texts
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.remote import api_process
from tests.support.restarts import killed, processes

pytestmark = pytest.mark.slow

__all__ = ["quick"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_at_any_moment_requests_and_pays_nothing_twice(tmp_path: Path, moment: str) -> None:
    with api_process(batch_delay=0.05) as server:
        child = processes().Process(target=batch_child.main, args=(server.base_url, tmp_path, moment))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.wait_for_probe()
            # Like a node, don't order completions that the journal already has.
            held = texts(rig.journal)
            rig.run([order(number) for number in range(ORDERS) if len(held.get(f"question {number}", {})) < 4])
        assert len(lines(server)) == 4 * ORDERS
        assert batches(server) == 1
        released = moment in ("before the upload", "after the upload", "before the beginning")
        assert_paid(server, rig.ledger, **{"void": 0.0} if released else {})
        delivered = {text for entry in lines(server) for text in entry.texts if entry.outcome is Outcome.DELIVERED}
    got = rig.texts()
    assert sorted(map(len, got.values())) == [4] * ORDERS
    assert {text for places in got.values() for text in places.values()} == delivered
    assert set(states(rig.ledger)) == {"over"}


def test_repeated_kills_request_and_pay_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(4)
    with api_process(batch_delay=0.3) as server:
        kills = 0
        for _ in range(4):
            node, ledger = (processes(), batch_child.main, server.base_url, tmp_path), tmp_path / "ledger.sqlite"
            kills += killed(*node, when=ledger.exists, pause_s=chance.uniform(0.0, 0.3))
        assert kills >= 1
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.wait_for_probe()
            rig.run([order(number) for number in range(ORDERS)])
        assert len(lines(server)) == 4 * ORDERS
        accounts = rig.accounts()
        in_batches = sum(entry.prompt_tokens * 2 + entry.completion_tokens * 8 for entry in lines(server)) / 2e6
        assert accounts["settled"] >= in_batches - 1e-12
        assert "batched" not in accounts
    assert sorted(map(len, rig.texts().values())) == [4] * ORDERS
