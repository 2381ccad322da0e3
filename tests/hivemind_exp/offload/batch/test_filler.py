"""The engine with a server's Batch API: completed batches, and what happens to failed or missing lines."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import pytest

from hivemind_exp.providers import Group
from hivemind_exp.stop import StopRequested
from tests.support.batching import assert_paid, batches, filled, lines, quick, states, until
from tests.support.engine_rig import GROUPS, PRICE_IN, PRICE_OUT, endpoint, engine, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server

__all__ = ["quick"]


@pytest.mark.parametrize("group", GROUPS)
def test_round_is_one_batch_at_half_the_price(tmp_path: Path, group: Group) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url, group=group), batched=True) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number, round_=number % 2) for number in range(10)])
        asked = lines(server)
        assert_paid(server, rig.ledger)
        rig.offload.report_spend(1)
        assert len(server.ledger.chats) == 1
    assert filled(rig) == [4] * 10
    assert all(len(set(places.values())) == 4 for places in rig.texts().values())
    assert batches(server) == 2
    assert len(asked) == (10 if group == "n" else 40)
    assert states(rig.ledger) == {"over": 2}
    (spent,) = [event for event in rig.events.of("spend") if event["round"] == 1]
    second = [entry for entry in asked if entry.batch == asked[-1].batch]
    assert spent["requests"] == len(second)
    assert spent["prompt_tokens"] == sum(entry.prompt_tokens for entry in second)
    bill = sum(entry.prompt_tokens * PRICE_IN + entry.completion_tokens * PRICE_OUT for entry in second) / 2e6
    assert spent["usd"] == pytest.approx(bill, abs=1e-8)


def test_progress_of_the_awaited_batch_is_reported(tmp_path: Path) -> None:
    with api_server(batch_delay=0.3) as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.run([order(number, round_=7) for number in range(2)])
    phase = rig.events.of("phase")[-1]
    told = {"name": "waiting for a batch of 8 requests at box", "done": 0, "total": 8, "percent": False, "round": None}
    assert phase == told


def test_stop_is_immediate_and_the_next_start_collects(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.wait_for_probe()
            rig.offload.submit([order(number) for number in range(3)])
            until(lambda: states(rig.ledger)["running"])
            rig.stop.set()
            with pytest.raises(StopRequested):
                rig.offload.wait(0)
        assert [(warning["code"], warning["message"]) for warning in rig.events.of("warning")] == [
            ("batch_pending", "requests still running at box: 12 in 1 batch; the next start collects them")
        ]
        assert rig.accounts()["batched"] > 0
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.wait_for_probe()
            rig.run([order(number) for number in range(3)])
        assert_paid(server, rig.ledger)
        assert len(lines(server)) == 12
    assert filled(rig) == [4] * 3


def test_batch_without_current_orders_is_still_collected_and_paid(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.submit([order(0)])
            until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            until(lambda: states(rig.ledger)["over"])
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RATE_LIMIT, Fault.EMPTY, Fault.FILTERED, Fault.FEWER])
def test_failed_line_is_sent_again_in_the_next_batch(tmp_path: Path, fault: Fault) -> None:
    faults = {"0/answer/question 1/0x4": fault}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.offload.submit([order(number) for number in range(3)])
        until(lambda: len(lines(server)) == 3)
        server.set(line_faults={})
        rig.offload.wait(0)
        asked = lines(server)
        # The service may have done the work for a line that failed; it did none for a line that it rejected.
        others = {Fault.SERVER_ERROR: {"kept": ANY}, Fault.RATE_LIMIT: {"void": 0.0}}
        assert_paid(server, rig.ledger, **others.get(fault, {}))
    assert filled(rig) == [4] * 3
    assert len(asked) == 4
    assert asked[-1].n == (1 if fault is Fault.FEWER else 4)
    assert len(set(rig.texts()["question 1"].values())) == 4


@pytest.mark.parametrize("fault", [Fault.NO_USAGE, Fault.CHOICES_NOT_LIST])
def test_line_without_usage_keeps_its_half_price_reserve(tmp_path: Path, fault: Fault) -> None:
    faults = {"0/answer/question 0/0x2": fault}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(0, places=2)])
    kept = rig.accounts()["kept"]
    prompt = sum(len(message["content"]) + 64 for message in order(0).messages)
    assert kept == pytest.approx((prompt * PRICE_IN + 2 * 64 * PRICE_OUT) / 2e6 * (3 if _never(fault) else 1))


def _never(fault: Fault) -> bool:
    """Whether a line fails every time, so that it is sent again until it is given up."""
    return fault is Fault.CHOICES_NOT_LIST


def test_slot_is_given_up_after_several_empty_batches(tmp_path: Path) -> None:
    faults = {"0/answer/question 0/0x2": Fault.EMPTY}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(number, places=2) for number in range(2)])
        rig.offload.report_spend(0)
        asked = lines(server)
        assert_paid(server, rig.ledger)
    assert len(asked) == 2 + 2
    assert [*rig.texts()] == ["question 1"]
    assert [spent["lost"] for spent in rig.events.of("spend")] == [0, 2]


@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_batch_that_ended_early_is_paid_in_part_and_the_rest_sent_again(tmp_path: Path, status: str, done: int) -> None:
    with (
        api_server(batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.offload.submit([order(number) for number in range(2)])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches(status, lines=done)
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
        assert len(lines(server)) == 8
        assert_paid(server, rig.ledger, void=0.0)
    assert filled(rig) == [4, 4]
    told = (
        f"box:test-model reports a batch as {status}; {done} of its 8 requests were answered, "
        "and the others will be sent again"
    )
    assert [warning["code"] for warning in rig.events.of("warning")] == [f"batch_{status}"]
    assert rig.events.of("warning")[0]["message"].startswith(told)


def test_failed_batch_costs_nothing_and_is_submitted_again(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.offload.submit([order(0)])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches("failed")
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
        assert_paid(server, rig.ledger, void=0.0)
    assert "The batch failed." in rig.events.of("warning")[0]["message"]
