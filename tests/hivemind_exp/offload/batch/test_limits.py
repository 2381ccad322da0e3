"""Batches under a cap, with a full queue, and with service-specific rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.errors import LimitReached, ProviderError
from tests.support.batching import assert_paid, filled, lines, quick, states, until
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, endpoint, engine, order
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import api_server

__all__ = ["quick"]


def test_full_queue_is_waited_out_and_reported_once(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=0.0, batch_queue=0) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.submit([order(0)])
        until(lambda: states(rig.ledger)["over"] >= 4)
        server.set(batch_queue=None)
        rig.offload.wait(0)
    assert filled(rig) == [4]
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_failed"]
    assert "Enqueued token limit" in rig.events.of("warning")[0]["message"]


def test_rejected_batch_without_fallback_ends_the_run(tmp_path: Path) -> None:
    with (
        api_server(models=("test-model",)) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        server.set(models=("another",))
        with pytest.raises(ProviderError, match=r"request rejected .*does not exist"):
            rig.run([order(0)])
        assert_paid(server, rig.ledger, void=0.0)


def test_parameters_adapt_to_what_the_server_rejects(tmp_path: Path) -> None:
    with (
        api_server(rejects=("n",)) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.run([order(number, round_=number) for number in range(3)])
        refused = [entry for entry in lines(server) if entry.outcome is Outcome.REFUSED]
    assert filled(rig) == [4] * 3
    assert 1 <= len(refused) <= 3
    assert rig.events.of("warning") == []


def test_cap_is_checked_before_any_upload(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), usd=0.02, batched=True) as rig:
        rig.offload.wait_for_probe()
        with pytest.raises(
            LimitReached, match=r"the next batch may cost up to .* of 0\.02 USD \(offload\.limits\.usd\)"
        ):
            rig.run([order(number) for number in range(50)])
        assert {entry.endpoint for entry in server.ledger.entries} == {"models", "chat"}
        assert_paid(server, rig.ledger)
    assert states(rig.ledger) == {}


@pytest.mark.slow
def test_rounds_beyond_the_cap_wait_for_released_reserves(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=0.05) as server,
        engine(tmp_path, endpoint(server.base_url), usd=0.01, batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        with pytest.raises(LimitReached):
            rig.run([order(number, round_=number) for number in range(60)])
        assert 0.005 < server.usd(PRICE_IN, PRICE_OUT) <= 0.01
    assert sum(filled(rig)) > 8 * 4


def test_at_the_cap_this_machine_takes_over(tmp_path: Path) -> None:
    with api_server() as server:
        with engine(tmp_path, endpoint(server.base_url), None, usd=0.002, on_limit_local=True, batched=True) as rig:
            rig.run([order(number) for number in range(50)])
    assert rig.texts() == {}
    assert [warning["code"] for warning in rig.events.of("warning")] == ["limit"]
