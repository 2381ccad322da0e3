"""Batches while requests fail: nothing is started twice, and nothing that was paid for is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest.mock import ANY

import pytest

from hivemind_exp.errors import KeyProblem
from hivemind_exp.offload import router as routing
from tests.support.batching import assert_paid, batches, filled, lines, quick, states, until
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, Rig, endpoint, engine, order
from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.waiting import LONG_S

__all__ = ["quick"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATED, Fault.STALL, Fault.SERVER_ERROR, Fault.HTML_OK])
def test_batch_with_a_lost_start_response_is_not_started_twice(tmp_path: Path, fault: Fault) -> None:
    with (
        api_server(batch_delay=0.05) as server,
        engine(tmp_path, endpoint(server.base_url), timeout=0.5, batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        server.next(fault, endpoint="batches")
        rig.run([order(0)])
        assert batches(server) == 1
        assert len(lines(server)) == 4
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RATE_LIMIT_BARE, Fault.HTML_OK, Fault.UNAVAILABLE, Fault.CLOSE])
def test_failed_upload_is_retried(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        server.next(fault, times=2, endpoint="files")
        rig.run([order(0)])
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.HTML_OK, Fault.RESET, Fault.SERVER_ERROR])
def test_broken_result_file_is_fetched_again(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        server.next(fault, endpoint="content")
        rig.run([order(number) for number in range(3)])
        assert len(lines(server)) == 12
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4] * 3


def test_permanently_unreadable_lines_count_as_spent(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        server.next(Fault.TRUNCATED, times=3, endpoint="content")
        rig.run([order(0)])
        billed = server.usd(PRICE_IN, PRICE_OUT)
    assert filled(rig) == [4]
    assert rig.accounts()["kept"] > 0
    assert sum(rig.accounts().values()) >= billed


def test_batch_that_the_service_lost_counts_as_spent(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        rig.offload.submit([order(0)])
        until(lambda: states(rig.ledger)["running"])
        server.forget_batches()
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
    assert filled(rig) == [4]
    assert rig.accounts()["kept"] > 0
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_gone"]


def test_key_rejected_during_a_batch_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    keys = {"key-1234", "key-5678"}
    with api_server(keys=keys, batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), None, key="key-1234", batched=True) as rig:
            rig.offload.wait_for_probe()
            rig.offload.submit([order(0)])
            until(lambda: states(rig.ledger)["running"])
            server.revoke("key-1234")
            with pytest.raises(KeyProblem, match="to collect its batches, set a key of the same account"):
                rig.offload.wait(0)
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), None, key="key-5678", batched=True) as rig:
            rig.run([order(0)])
        assert len(lines(server)) == 4
    assert filled(rig) == [4]


def test_outage_during_a_batch_is_waited_out(tmp_path: Path) -> None:
    with api_server(batch_delay=0.0) as server, engine(tmp_path, endpoint(server.base_url), None, batched=True) as rig:
        rig.offload.wait_for_probe()
        server.set(batch_delay=None)
        rig.offload.submit([order(0)])
        until(lambda: states(rig.ledger)["running"])
        with server.down():
            until(lambda: rig.events.of("warning"))
        server.finish_batches()
        rig.offload.wait(0)
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_unreachable", "batch_reachable"]


@pytest.mark.slow
def test_batch_started_before_an_outage_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 1.0)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        server.next(Trouble(Fault.SLOW, seconds=0.5), endpoint="batches")
        early, late = order(0), order(1, round_=1)
        rig.offload.submit([early])
        until(lambda: any(entry.endpoint == "batches" for entry in server.ledger.entries))
        server.always(Fault.NO_CREDIT, endpoint="files")
        rig.offload.submit([late])
        early.done.result(timeout=LONG_S)
        assert [warning["code"] for warning in rig.events.of("warning")] == ["provider_down"]
        server.always(None, endpoint="files")
        late.done.result(timeout=LONG_S)
        assert_paid(server, rig.ledger, void=0.0)  # the batch whose upload failed
    assert filled(rig) == [4, 4]
    assert [warning["code"] for warning in rig.events.of("warning")] == ["provider_down", "provider_back"]


def test_outage_falls_back_to_direct_requests_to_the_next_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.2)
    with api_server() as server, api_server() as spare:
        chain = (endpoint(server.base_url), endpoint(spare.base_url, name="spare"))
        with engine(tmp_path, *chain, batched=True) as rig:
            rig.offload.wait_for_probe()
            with server.down():
                rig.run([order(number) for number in range(3)])
            assert len(spare.ledger.chats) == 1 + 12  # a fallback is tested before its first use
            assert rig.events.of("warning")[0]["message"].endswith(
                "falling back to spare:test-model until box is available again"
            )
            _wait_for_recovery(server, rig)
            assert len(server.ledger.chats) == 1
    assert filled(rig)[:3] == [4] * 3


def _wait_for_recovery(server: ApiServer, rig: Rig) -> None:
    """Place orders until one goes through a batch again."""
    number = 10
    while not lines(server):
        rig.run([order(number, round_=number)])
        number += 1


@pytest.mark.slow
def test_ledger_matches_the_server_after_many_faults(tmp_path: Path) -> None:
    kinds = [Fault.SERVER_ERROR, Fault.EMPTY, Fault.FEWER, Fault.FILTERED, Fault.EXTRA, Fault.NULL, Fault.LENGTH]
    faults = {f"{n % 5}/answer/question {n}/0x4": kinds[n % len(kinds)] for n in range(0, 40, 2)}
    with (
        api_server(line_faults=faults, batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        for place in ("files", "batches", "content"):
            for fault in (Fault.RESET, Fault.SERVER_ERROR, Fault.TRUNCATED, Fault.HTML_OK):
                server.next(fault, endpoint=place)
        rig.offload.submit([order(number, round_=number % 5) for number in range(40)])
        until(lambda: states(rig.ledger)["running"] == 5)
        server.set(batch_delay=0.05)
        server.finish_batches()
        server.set(line_faults={})
        for round_ in range(5):
            rig.offload.wait(round_)
        assert_paid(server, rig.ledger, kept=ANY)
        assert rig.accounts()["kept"] > 0, "lines that failed"
        delivered = Counter(text for texts in server.ledger.texts(Outcome.DELIVERED).values() for text in texts)
    assert filled(rig) == [4] * 40
    assert not Counter(text for places in rig.texts().values() for text in places.values()) - delivered
