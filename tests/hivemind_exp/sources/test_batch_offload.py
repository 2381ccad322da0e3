"""The engine through the Batch API of a server that does everything that servers do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_exp.errors import KeyProblem, LimitReached, ProviderError
from hivemind_exp.sources import router as routing
from hivemind_exp.sources.providers import Group
from hivemind_exp.stop import StopRequested
from tests.api.faults import Fault
from tests.api.ledger import Outcome
from tests.api.server import ApiServer, api_server
from tests.hivemind_exp.sources.batching import assert_paid, batches, lines, quick, states
from tests.hivemind_exp.sources.offloading import GROUPS, PRICE_IN, PRICE_OUT, Rig, endpoint, engine, order

__all__ = ["quick"]


def until(true: Callable[[], object]) -> None:
    """Wait for what happens in another thread."""
    while not true():
        time.sleep(0.005)


def filled(rig: Rig) -> list[int]:
    """Return how many places each question has, in order."""
    return [len(places) for _, places in sorted(rig.texts().items())]


@pytest.mark.parametrize("group", GROUPS)
def test_a_round_is_one_batch_at_half_the_price(tmp_path: Path, group: Group) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url, group=group), batched=True) as rig:
        rig.offload.probed()
        rig.run([order(number, round_=number % 2) for number in range(10)])
        asked = lines(server)
        assert_paid(server, rig.ledger)
        rig.offload.tell(1)
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


def test_the_trainer_sees_how_far_the_batch_is_that_it_waits_for(tmp_path: Path) -> None:
    with api_server(batch_delay=0.3) as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.run([order(number, round_=7) for number in range(2)])
    phase = rig.events.of("phase")[-1]
    assert phase == {"name": "waiting for a batch of 8 requests at box", "done": 0, "total": 8}


def test_a_stop_is_at_once_and_the_next_start_collects(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.probed()
            rig.offload.place([order(number) for number in range(3)])
            until(lambda: states(rig.ledger)["running"])
            rig.stop.set()
            with pytest.raises(StopRequested):
                rig.offload.wait(0)
        assert [(warning["code"], warning["message"]) for warning in rig.events.of("warning")] == [
            ("batch_pending", "12 requests go on in 1 batches at box; the next start collects them")
        ]
        assert rig.accounts()["batched"] > 0
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.probed()
            rig.run([order(number) for number in range(3)])
        assert_paid(server, rig.ledger)
        assert len(lines(server)) == 12
    assert filled(rig) == [4] * 3


def test_what_nobody_orders_any_more_is_collected_and_paid_all_the_same(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            rig.offload.place([order(0)])
            until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
            until(lambda: states(rig.ledger)["over"])
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RATE_LIMIT, Fault.EMPTY, Fault.FILTERED, Fault.FEWER])
def test_what_a_line_did_not_bring_is_asked_again_in_the_next_batch(tmp_path: Path, fault: Fault) -> None:
    faults = {"0/answer/question 1/0x4": fault}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.probed()
        rig.offload.place([order(number) for number in range(3)])
        until(lambda: len(lines(server)) == 3)
        server.set(line_faults={})
        rig.offload.wait(0)
        asked = lines(server)
        void = {"void": 0.0} if fault in (Fault.SERVER_ERROR, Fault.RATE_LIMIT) else {}
        assert_paid(server, rig.ledger, **void)
    assert filled(rig) == [4] * 3
    assert len(asked) == 4
    assert asked[-1].n == (1 if fault is Fault.FEWER else 4)
    assert len(set(rig.texts()["question 1"].values())) == 4


@pytest.mark.parametrize("fault", [Fault.NO_USAGE, Fault.CHOICES_NOT_LIST])
def test_a_line_that_does_not_say_what_it_cost_keeps_its_half_of_the_reserve(tmp_path: Path, fault: Fault) -> None:
    faults = {"0/answer/question 0/0x2": fault}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.probed()
        rig.run([order(0, places=2)])
    kept = rig.accounts()["kept"]
    prompt = sum(len(message["content"]) + 64 for message in order(0).messages)
    assert kept == pytest.approx((prompt * PRICE_IN + 2 * 64 * PRICE_OUT) / 2e6 * (3 if _never(fault) else 1))


def _never(fault: Fault) -> bool:
    """Whether a line is asked for again until it is given up, since its fault stays."""
    return fault is Fault.CHOICES_NOT_LIST


def test_a_place_that_batch_after_batch_brings_nothing_for_is_given_up(tmp_path: Path) -> None:
    faults = {"0/answer/question 0/0x2": Fault.EMPTY}
    with (
        api_server(line_faults=faults) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.probed()
        rig.run([order(number, places=2) for number in range(2)])
        rig.offload.tell(0)
        asked = lines(server)
        assert_paid(server, rig.ledger)
    assert len(asked) == 2 + 2
    assert [*rig.texts()] == ["question 1"]
    assert [spent["lost"] for spent in rig.events.of("spend")] == [0, 2]


@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_ended_early_is_paid_for_what_it_did_and_the_rest_is_asked_again(
    tmp_path: Path, status: str, done: int
) -> None:
    with (
        api_server(batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.probed()
        rig.offload.place([order(number) for number in range(2)])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches(status, lines=done)
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
        assert len(lines(server)) == 8
        assert_paid(server, rig.ledger, void=0.0)
    assert filled(rig) == [4, 4]
    told = f"box:test-model says that a batch is {status}; {done} of its 8 requests were answered, the others are asked"
    assert [warning["code"] for warning in rig.events.of("warning")] == [f"batch_{status}"]
    assert rig.events.of("warning")[0]["message"].startswith(told)


def test_a_failed_batch_costs_nothing_and_is_submitted_again(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.probed()
        rig.offload.place([order(0)])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches("failed")
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
        assert_paid(server, rig.ledger, void=0.0)
    assert "The batch failed." in rig.events.of("warning")[0]["message"]


def test_a_full_queue_is_waited_for_and_told_once(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=0.0, batch_queue=0) as server,
        engine(tmp_path, endpoint(server.base_url), batched=True) as rig,
    ):
        rig.offload.place([order(0)])
        until(lambda: states(rig.ledger)["over"] >= 4)
        server.set(batch_queue=None)
        rig.offload.wait(0)
    assert filled(rig) == [4]
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_failed"]
    assert "Enqueued token limit" in rig.events.of("warning")[0]["message"]


def test_a_batch_that_nobody_accepts_ends_the_run_where_nothing_may_stand_in(tmp_path: Path) -> None:
    with (
        api_server(models=("test-model",)) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.probed()
        server.set(models=("another",))
        with pytest.raises(ProviderError, match=r"request not accepted .*does not exist"):
            rig.run([order(0)])
        assert_paid(server, rig.ledger, void=0.0)


def test_a_server_that_wants_other_parameters_is_asked_as_it_likes(tmp_path: Path) -> None:
    with (
        api_server(rejects=("n",)) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.run([order(number, round_=number) for number in range(3)])
        refused = [entry for entry in lines(server) if entry.outcome is Outcome.REFUSED]
    assert filled(rig) == [4] * 3
    assert 1 <= len(refused) <= 3
    assert rig.events.of("warning") == []


def test_the_cap_stops_before_anything_is_uploaded(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), usd=0.02, batched=True) as rig:
        rig.offload.probed()
        with pytest.raises(LimitReached, match=r"the next batch may cost .* of offload.limits.usd = 0.02 USD"):
            rig.run([order(number) for number in range(50)])
        assert {entry.endpoint for entry in server.ledger.entries} == {"chat"}
        assert_paid(server, rig.ledger)
    assert states(rig.ledger) == {}


def test_rounds_beyond_the_cap_wait_for_what_comes_back_from_those_before(tmp_path: Path) -> None:
    with (
        api_server(batch_delay=0.05) as server,
        engine(tmp_path, endpoint(server.base_url), usd=0.01, batched=True) as rig,
    ):
        rig.offload.probed()
        with pytest.raises(LimitReached):
            rig.run([order(number, round_=number) for number in range(60)])
        assert 0.005 < server.usd(PRICE_IN, PRICE_OUT) <= 0.01
    assert sum(filled(rig)) > 8 * 4


def test_at_the_cap_this_machine_may_go_on(tmp_path: Path) -> None:
    with api_server() as server:
        with engine(tmp_path, endpoint(server.base_url), None, usd=0.002, on_limit_local=True, batched=True) as rig:
            rig.run([order(number) for number in range(50)])
    assert rig.texts() == {}
    assert [warning["code"] for warning in rig.events.of("warning")] == ["limit"]


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATED, Fault.STALL, Fault.SERVER_ERROR, Fault.HTML_OK])
def test_a_batch_whose_beginning_nobody_heard_of_is_not_begun_twice(tmp_path: Path, fault: Fault) -> None:
    with (
        api_server(batch_delay=0.05) as server,
        engine(tmp_path, endpoint(server.base_url), timeout=0.5, batched=True) as rig,
    ):
        rig.offload.probed()
        server.next(fault, endpoint="batches")
        rig.run([order(0)])
        assert batches(server) == 1
        assert len(lines(server)) == 4
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RATE_LIMIT_BARE, Fault.HTML_OK, Fault.UNAVAILABLE, Fault.CLOSE])
def test_an_upload_that_fails_is_made_again(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.probed()
        server.next(fault, times=2, endpoint="files")
        rig.run([order(0)])
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.HTML_OK, Fault.RESET, Fault.SERVER_ERROR])
def test_a_file_of_results_that_came_broken_is_read_again(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.probed()
        server.next(fault, endpoint="content")
        rig.run([order(number) for number in range(3)])
        assert len(lines(server)) == 12
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4] * 3


def test_lines_that_a_broken_file_hides_for_good_count_as_spent(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.probed()
        server.next(Fault.TRUNCATED, times=3, endpoint="content")
        rig.run([order(0)])
        billed = server.usd(PRICE_IN, PRICE_OUT)
    assert filled(rig) == [4]
    assert rig.accounts()["kept"] > 0
    assert sum(rig.accounts().values()) >= billed


def test_a_batch_that_the_service_forgot_counts_as_spent(tmp_path: Path) -> None:
    with api_server(batch_delay=None) as server, engine(tmp_path, endpoint(server.base_url), batched=True) as rig:
        rig.offload.probed()
        rig.offload.place([order(0)])
        until(lambda: states(rig.ledger)["running"])
        server.forget_batches()
        until(lambda: states(rig.ledger)["over"])
        until(lambda: states(rig.ledger)["running"])
        server.finish_batches()
        rig.offload.wait(0)
    assert filled(rig) == [4]
    assert rig.accounts()["kept"] > 0
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_gone"]


def test_a_key_refused_while_a_batch_is_out_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    keys = {"key-1234", "key-5678"}
    with api_server(keys=keys, batch_delay=None) as server:
        with engine(tmp_path, endpoint(server.base_url), None, key="key-1234", batched=True) as rig:
            rig.offload.probed()
            rig.offload.place([order(0)])
            until(lambda: states(rig.ledger)["running"])
            server.revoke("key-1234")
            with pytest.raises(KeyProblem, match="its batches wait for a key of the same account"):
                rig.offload.wait(0)
        server.finish_batches()
        with engine(tmp_path, endpoint(server.base_url), None, key="key-5678", batched=True) as rig:
            rig.run([order(0)])
        assert len(lines(server)) == 4
    assert filled(rig) == [4]


def test_a_service_that_is_down_while_a_batch_is_out_is_waited_for(tmp_path: Path) -> None:
    with api_server(batch_delay=0.0) as server, engine(tmp_path, endpoint(server.base_url), None, batched=True) as rig:
        rig.offload.probed()
        server.set(batch_delay=None)
        rig.offload.place([order(0)])
        until(lambda: states(rig.ledger)["running"])
        with server.down():
            until(lambda: rig.events.of("warning"))
        server.finish_batches()
        rig.offload.wait(0)
        assert_paid(server, rig.ledger)
    assert filled(rig) == [4]
    assert [warning["code"] for warning in rig.events.of("warning")] == ["batch_unreachable", "batch_reachable"]


def test_while_the_service_is_down_the_next_of_the_chain_is_asked_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.2)
    with api_server() as server, api_server() as spare:
        chain = (endpoint(server.base_url), endpoint(spare.base_url, name="spare"))
        with engine(tmp_path, *chain, batched=True) as rig:
            rig.offload.probed()
            with server.down():
                rig.run([order(number) for number in range(3)])
            assert len(spare.ledger.chats) == 12
            assert rig.events.of("warning")[0]["message"].endswith("spare:test-model generates until it answers again")
            _wait_for_recovery(server, rig)
            assert len(server.ledger.chats) == 1
    assert filled(rig)[:3] == [4] * 3


def _wait_for_recovery(server: ApiServer, rig: Rig) -> None:
    """Place orders until one goes through a batch again."""
    number = 10
    while not lines(server):
        rig.run([order(number, round_=number)])
        number += 1


def test_books_are_equal_when_much_goes_wrong(tmp_path: Path) -> None:
    kinds = [Fault.SERVER_ERROR, Fault.EMPTY, Fault.FEWER, Fault.FILTERED, Fault.EXTRA, Fault.NULL, Fault.LENGTH]
    faults = {f"{n % 5}/answer/question {n}/0x4": kinds[n % len(kinds)] for n in range(0, 40, 2)}
    with (
        api_server(line_faults=faults, batch_delay=None) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), batched=True) as rig,
    ):
        rig.offload.probed()
        for place in ("files", "batches", "content"):
            for fault in (Fault.RESET, Fault.SERVER_ERROR, Fault.TRUNCATED, Fault.HTML_OK):
                server.next(fault, endpoint=place)
        rig.offload.place([order(number, round_=number % 5) for number in range(40)])
        until(lambda: states(rig.ledger)["running"] == 5)
        server.set(batch_delay=0.05)
        server.finish_batches()
        server.set(line_faults={})
        for round_ in range(5):
            rig.offload.wait(round_)
        assert_paid(server, rig.ledger, void=0.0)
        delivered = Counter(text for texts in server.ledger.texts(Outcome.DELIVERED).values() for text in texts)
    assert filled(rig) == [4] * 40
    assert not Counter(text for places in rig.texts().values() for text in places.values()) - delivered
