"""Orders during outages: none waits forever, and a provider that works again is used again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload import router as routing
from hivemind_exp.offload import waiting
from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.rate_limit import RateLimiter
from hivemind_exp.offload.router import FAULTS_IN_A_ROW, ProviderService, Router
from hivemind_exp.providers import Group
from hivemind_exp.rollouts.types import CompletionRequest
from tests.support.engine_rig import GROUPS, PRICE, Rig, endpoint, engine, order, real_chats
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.recorded_events import Events
from tests.support.waiting import LONG_S, until


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.2)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)


def outage(rig: Rig, server: ApiServer) -> None:
    """Take the provider down and wait until the engine has noticed."""
    server.always(Fault.NO_CREDIT)
    rig.offload.submit([order(0, places=1)])
    until(lambda: bool(rig.events.of("warning")))


def outages(rig: Rig) -> list[str]:
    """Return the codes of the warnings about outages and their ends."""
    codes = [warning["code"] for warning in rig.events.of("warning")]
    return [code for code in codes if code.startswith("provider_")]


def health(rig: Rig) -> ProviderService:
    """Return the engine's state of its first service."""
    service = rig.services[0]
    assert service is not None
    return service


def finish(*orders: CompletionRequest) -> None:
    for each in orders:
        each.done.result(timeout=LONG_S)


@pytest.mark.slow
def test_orders_during_an_outage_are_filled_after_it(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        early = [order(number) for number in range(1, 6)]
        outage(rig, server)
        rig.offload.submit(early)
        until(lambda: health(rig).outages > 1)  # one of the orders has tried and failed
        server.always(None)
        finish(*early)
    assert {len(rig.texts()[f"question {number}"]) for number in range(1, 6)} == {4}


@pytest.mark.slow
def test_a_busy_service_that_asks_for_a_pause_gets_it_from_all_requests(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.next(Trouble(Fault.UNAVAILABLE, retry_after="1"))
        started = rig.offload._loop.time()
        rig.offload.submit([order(0, places=1)])
        until(lambda: health(rig).limiter._held_until > started + 0.9)
        rig.offload.submit([order(1, places=1)])
        rig.offload.wait(0)
        refused, *later = real_chats(server)[-3:]
    assert refused.status == 503
    assert all(entry.started - (refused.ended or 0) > 0.9 for entry in later)
    assert len(later) == 2


def test_order_after_an_outage_detects_recovery(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None) as rig:
        rig.offload.wait_for_probe()
        outage(rig, server)
        server.always(None)
        until(lambda: rig.offload._loop.time() > health(rig).down_until)
        late = [order(number) for number in range(1, 4)]
        for each in late:
            rig.offload.submit([each])
            finish(each)
    assert [len(rig.texts().get(f"question {number}", ())) for number in range(1, 4)] == [4, 4, 4]


@pytest.mark.slow
def test_answers_to_requests_sent_before_an_outage_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_REST_S", 3600.0)  # no probe before the test allows it
    slow = 6

    def number(ask: Ask) -> int:
        return int(ask.messages[-1]["content"].removeprefix("question "))

    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None) as rig:
        rig.offload.wait_for_probe()
        server.set(
            predicate=lambda ask: Fault.SERVER_ERROR if number(ask) >= slow else None,
            # These answers come one by one, long after the failures.
            latency=lambda ask: 0.0 if number(ask) >= slow else 1.0 + 0.1 * number(ask),
        )
        early = [order(each, places=1) for each in range(slow)]
        rig.offload.submit(early)
        until(lambda: len(server.ledger.chats) == 1 + slow)
        failing = [order(each) for each in range(slow, 3 * slow)]
        rig.offload.submit(failing)
        finish(*early, *failing)
        assert outages(rig) == ["provider_down"]
        assert health(rig).trouble is not None
        server.set(predicate=None, latency=0.0)
        health(rig).down_until = 0.0
        until(lambda: _filled(rig, order(100)))
    assert outages(rig) == ["provider_down", "provider_back"]
    assert {len(rig.texts()[f"question {each}"]) for each in range(slow)} == {1}


def test_failures_of_requests_sent_before_an_outage_began_or_ended_do_not_count() -> None:
    async def job() -> None:
        box = endpoint("http://box/v1")
        service = ProviderService(box, ChatClient(box, None, seconds=1), RateLimiter(8, None, None), PRICE)
        router = Router([service, None], Events())

        def fail(sent: float) -> None:
            router.record_failure(service, RequestFailed(FaultKind.BROKEN, "lost", billed=True, sent_at=sent))

        for _ in range(FAULTS_IN_A_ROW):
            fail(asyncio.get_running_loop().time())
        assert service.trouble is not None
        service.probing = True  # one request finds out whether it works again
        fail(service.down_since - 1)
        assert (service.probing, service.outages) == (True, 1)
        router.record_success(service, service.down_since + 1)
        assert service.trouble is None
        for _ in range(2 * FAULTS_IN_A_ROW):
            fail(service.recovered_at - 0.001)
        assert (service.trouble, service.faults) == (None, 0)
        for _ in range(FAULTS_IN_A_ROW):
            fail(service.recovered_at + 0.001)
        assert service.trouble is not None
        await service.client.close()

    asyncio.run(job())


def test_parameters_adapt_after_an_outage(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        early = order(1)
        outage(rig, server)
        rig.offload.submit([early])
        server.set(rejects=("temperature",))
        server.always(None)
        finish(early)
    assert len(rig.texts()["question 1"]) == 4


@pytest.mark.parametrize("wait", ["3600", "inf", "1e300"])
@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.UNAVAILABLE])
def test_pause_of_hours_is_an_outage_and_the_next_provider_fills_in(tmp_path: Path, fault: Fault, wait: str) -> None:
    with api_server() as server, api_server() as spare:
        with engine(tmp_path, endpoint(server.base_url), endpoint(spare.base_url, name="spare")) as rig:
            rig.offload.wait_for_probe()
            server.always(Trouble(fault, retry_after=wait))
            late = order(1)
            rig.offload.submit([late])
            finish(late)
    assert len(rig.texts()["question 1"]) == 4
    assert [warning["code"] for warning in rig.events.of("warning")] == ["provider_down"]


@pytest.mark.slow
def test_lasting_429s_are_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_SLOWED_S", 0.3)
    monkeypatch.setattr(routing, "_PATIENT_S", 0.1)
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.1)
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None) as rig:
        rig.offload.wait_for_probe()
        server.always(Trouble(Fault.RATE_LIMIT, retry_after="0.05"))
        first = order(1)
        rig.offload.submit([first])
        rig.offload.wait(0)  # left to this machine: the provider filled nothing
        limited, down = rig.events.of("warning")
        server.always(None)
        until(lambda: _filled(rig, order(2)))
    assert "question 1" not in rig.texts()
    assert (limited["code"], down["code"], rig.events.of("warning")[-1]["code"]) == (
        *("rate_limited", "provider_down", "provider_back"),
    )
    assert "Rate limit reached" in limited["message"]
    told = {"name": "waiting for box:test-model (it limits the rate of requests), completions", "done": 0}
    assert told | {"total": 4, "percent": False, "round": None} in rig.events.of("phase")


def _filled(rig: Rig, asked: CompletionRequest) -> bool:
    """Whether the provider now fills an order, after earlier ones were left to this machine."""
    rig.offload.submit([asked])
    finish(asked)
    rig.offload.wait(0)
    return len(rig.texts().get(asked.question, ())) == 4


@pytest.mark.slow
def test_many_requests_that_fail_together_are_one_outage(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        many = [order(number) for number in range(1, 41)]
        with server.down():
            rig.offload.submit(many)
            until(lambda: bool(rig.events.of("warning")))
        finish(*many)
    assert {len(places) for places in rig.texts().values()} == {4}


@pytest.mark.parametrize("group", GROUPS)
def test_rejected_prompt_does_not_affect_other_prompts(tmp_path: Path, group: Group) -> None:
    def predicate(ask: Ask) -> Fault | None:
        return Fault.UNKNOWN_FIELD if "question 1" in ask.messages[-1]["content"] else None

    with (
        api_server(predicate=predicate) as server,
        engine(tmp_path, endpoint(server.base_url, group=group)) as rig,
    ):
        rig.offload.wait_for_probe()
        orders = [order(number) for number in range(4)]
        for each in orders:
            rig.offload.submit([each])
            finish(each)
        rig.offload.wait(0)
        rig.offload.report_spend(0)
        asked = len(server.ledger.chats)
    assert sorted(rig.texts()) == ["question 0", "question 2", "question 3"]
    assert {len(places) for places in rig.texts().values()} == {4}
    # The probe, twice for the rejected prompt (its error named a parameter, so it was retried without), the others.
    assert asked == 1 + 2 + (3 if group == "n" else 3 * 4)
    assert [warning["code"] for warning in rig.events.of("warning")] == ["prompt_refused"]
    assert rig.events.of("spend")[-1]["lost"] == 4


def test_provider_that_rejects_every_prompt_ends_the_run(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.UNKNOWN_MODEL)
        with pytest.raises(ProviderError, match="request rejected"):
            rig.run([order(number) for number in range(20)])
