"""What is reported while the trainer waits for an API."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivemind_exp.offload import waiting
from hivemind_exp.offload.hints import STAGE as HINT_STAGE
from hivemind_exp.offload.judge import STAGE as JUDGE_STAGE
from hivemind_exp.offload.settings import SCORE_STAGE
from hivemind_exp.offload.waiting import WaitReport
from hivemind_exp.rollouts.types import CompletionRequest
from tests.support.engine_rig import endpoint, engine, order
from tests.support.fake_api.server import api_server
from tests.support.recorded_events import Events


def report_of(orders: list[CompletionRequest], events: Events, spent: list[bool]) -> WaitReport:
    """Return a report for a service that works. ``spent``: whether there is spending, by call."""
    service: Any = SimpleNamespace(trouble=None, slowed=0, label="box:m")
    return WaitReport([service], orders, events, lambda: spent.pop(0))


def test_completions_are_counted_while_every_prompt_is_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.0)
    orders, events = [order(0), order(1), order(2)], Events()
    report = report_of(orders, events, [False] * 3)
    orders[0].settled, orders[1].settled = 3, 2
    report()
    report()  # nothing has changed
    orders[2].done.set_result(None)  # left to this machine
    report()
    told = [(phase["name"], phase["done"], phase["total"]) for phase in events.of("phase")]
    name = "waiting for box:m, completions"
    assert told == [(name, 5, 12), (name, 9, 12)]


def test_the_phase_follows_spending_which_views_take_as_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.0)
    events = Events()
    report = report_of([order(0)], events, [False, False, True])
    report()
    report()
    assert len(events.of("phase")) == 1
    report()
    assert len(events.of("phase")) == 2


def test_requests_that_an_unavailable_service_still_has_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.0)
    events, orders = Events(), [order(0)]
    down: Any = SimpleNamespace(trouble="timed out", slowed=0, label="box:m")
    WaitReport([down], orders, events, lambda: False)()  # without a fallback, the node waits for the service
    assert events.of("phase") == []
    WaitReport([down, None], orders, events, lambda: False)()
    assert [phase["name"] for phase in events.of("phase")] == [
        "waiting for requests sent before box:m failed, completions"
    ]


@pytest.mark.parametrize(("stage", "parts"), [(SCORE_STAGE, "scores"), (JUDGE_STAGE, "grades"), (HINT_STAGE, "hints")])
def test_what_is_counted_has_its_own_name(monkeypatch: pytest.MonkeyPatch, stage: str, parts: str) -> None:
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.0)
    events = Events()
    report_of([CompletionRequest(0, stage, "q", (), (0,), version=0)], events, [False])()
    assert [phase["name"] for phase in events.of("phase")] == [f"waiting for box:m, {parts}"]


@pytest.mark.slow
def test_spending_is_reported_during_a_wait_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPORT_EVERY_S", 0.0)
    with api_server(latency=0.2) as server, engine(tmp_path, endpoint(server.base_url), concurrency=1) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(0)])
        during = [event for event in rig.events.of("spend") if event["round"] == 0]
        rig.offload.report_spend(0)
        chats = len(server.ledger.chats)
    spends = rig.events.of("spend")
    assert len(during) > 1
    assert sum(event["requests"] for event in spends) == chats == 5
    assert sum(event["usd"] for event in spends) == pytest.approx(rig.accounts()["settled"])
    assert spends[-1]["usd_total"] == pytest.approx(rig.accounts()["settled"])
    counted = [phase["done"] for phase in rig.events.of("phase") if phase["done"] is not None]
    assert counted == sorted(counted)
    assert {1, 2, 3} <= set(counted)
