"""What the engine spends: caps, prices, reserves, hidden reasoning, and what services add to the bill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivemind_exp.errors import LimitReached, ProviderError
from hivemind_exp.offload import router
from hivemind_exp.offload.prices import Price, Usage
from hivemind_exp.source_kinds import Kind
from tests.support.engine_rig import PRICE, PRICE_IN, PRICE_OUT, SAMPLING, endpoint, engine, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server

pytestmark = pytest.mark.slow
FREE = Price(0.0, 0.0)


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that fails again and again is asked again soon."""
    monkeypatch.setattr(router, "_REST_S", 0.2)


def test_cap_is_never_exceeded(tmp_path: Path) -> None:
    cap = 0.02
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), usd=cap, concurrency=4) as rig:
        with pytest.raises(LimitReached, match=r" of 0\.02 USD \(offload\.limits\.usd\) is already spent"):
            rig.run([order(number) for number in range(200)])
        assert 0.5 * cap < server.usd(PRICE_IN, PRICE_OUT) <= cap


@pytest.mark.parametrize("fault", [Fault.DROPPED, Fault.LOST_GATEWAY])
def test_lost_answers_count_towards_the_cap(tmp_path: Path, fault: Fault) -> None:
    cap = 0.02
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), usd=cap, concurrency=4) as rig:
        rig.offload.wait_for_probe()
        server.always(fault)
        with pytest.raises(LimitReached):
            rig.run([order(number) for number in range(200)])
        assert 0 < server.usd(PRICE_IN, PRICE_OUT) <= sum(rig.accounts().values()) <= cap


def test_at_the_cap_this_machine_takes_over_but_no_paid_fallback(tmp_path: Path) -> None:
    with api_server() as server, api_server() as spare:
        chain = (endpoint(server.base_url), endpoint(spare.base_url, name="spare"), None)
        with engine(tmp_path, *chain, usd=0.02, on_limit_local=True) as rig:
            rig.run([order(number) for number in range(100)])
        assert len(spare.ledger.chats) == 0
        assert server.usd(PRICE_IN, PRICE_OUT) <= 0.02
    assert 0 < sum(map(len, rig.texts().values())) < 400
    assert [warning["code"] for warning in rig.events.of("warning")] == ["limit"]


def test_reasoning_beyond_its_limit_ends_the_run(tmp_path: Path) -> None:
    with api_server(amend=_overcharge) as server, engine(tmp_path, endpoint(server.base_url), usd=5.0) as rig:
        with pytest.raises(ProviderError, match="hidden reasoning has no limit"):
            rig.offload.wait_for_probe()


@pytest.mark.parametrize(
    ("hidden", "text", "kind", "told"),
    [
        (100, "<answer>7</answer>", Kind.TEACHER, True),
        (100, "<answer>7</answer>", Kind.RELAY, False),
        (100, f"<think>{'so ' * 200}</think><answer>7</answer>", Kind.TEACHER, False),
        (20, "<answer>7</answer>", Kind.TEACHER, False),
    ],
    ids=["hides", "relay", "shows more", "little"],
)
def test_a_teacher_that_hides_its_reasoning_is_reported_once(
    tmp_path: Path, hidden: int, text: str, kind: Kind, told: bool
) -> None:
    with (
        api_server(answer=lambda *_: text, reasoning=hidden) as server,
        engine(tmp_path, endpoint(server.base_url), kind=kind, sampling=replace(SAMPLING, max_tokens=500)) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(8)])
        found = [event["message"] for event in rig.events.of("warning") if event["code"] == "hidden_reasoning"]
    assert len(found) == told
    assert not told or "about 100 tokens per completion" in found[0]


def test_text_that_a_service_adds_to_prompts_is_reserved(tmp_path: Path) -> None:
    cap = 0.02
    with (
        api_server(amend=_adds(lambda _: 500)) as server,
        engine(tmp_path, endpoint(server.base_url), usd=cap, concurrency=8) as rig,
    ):
        with pytest.raises(LimitReached):
            rig.run([order(number) for number in range(200)])
        generated = [entry for entry in server.ledger.chats if entry.prompt_tokens]  # not those cut off by the end
        billed = sum(entry.prompt_tokens + 500 for entry in generated) * PRICE_IN
        billed += server.ledger.completion_tokens * PRICE_OUT
    assert 0.5 * cap < billed / 1e6 <= cap
    assert billed / 1e6 <= sum(rig.accounts().values()) + 1e-12 <= cap + 1e-12
    (warning,) = rig.events.of("warning")
    assert warning["code"] == "added_prompt"
    assert "it adds text of its own. Reserves include it from now on" in warning["message"]


def test_added_text_without_a_limit_ends_the_run(tmp_path: Path) -> None:
    growing = iter(range(300, 10**6, 300))
    with (
        api_server(amend=_adds(lambda _: next(growing))) as server,
        engine(tmp_path, endpoint(server.base_url), usd=5.0, concurrency=1) as rig,
    ):
        rig.offload.wait_for_probe()
        with pytest.raises(ProviderError, match="what it adds has no limit, so no spending cap can be enforced"):
            rig.run([order(number) for number in range(20)])
        asked = len(server.ledger.chats)
        with pytest.raises(ProviderError, match="no spending cap can be enforced"):
            rig.run([order(number) for number in range(20, 40)])
        assert len(server.ledger.chats) == asked == 2


@pytest.mark.parametrize(
    "amend",
    [
        lambda _, body: body | {"usage": body["usage"] | {"cost": 2 * PRICE.listed_cost(Usage(*_tokens(body)))}},
        lambda _, body: body | {"service_tier": "priority"},
        lambda _, body: body | {"service_tier": "fast"},
    ],
    ids=["stated", "priority", "fast"],
)
def test_what_a_service_charges_beyond_its_price_counts_and_is_reserved(
    tmp_path: Path, amend: Callable[[object, dict[str, Any]], dict[str, Any]]
) -> None:
    cap = 0.02
    with (
        api_server(amend=amend) as server,
        engine(tmp_path, endpoint(server.base_url), usd=cap, concurrency=8) as rig,
    ):
        with pytest.raises(LimitReached):
            rig.run([order(number) for number in range(200)])
    assert 0.5 * cap < 2 * server.usd(PRICE_IN, PRICE_OUT) <= sum(rig.accounts().values()) + 1e-12 <= cap + 1e-12
    (warning,) = rig.events.of("warning")
    assert warning["code"] == "surcharge"
    assert warning["message"].endswith("What it charges counts, and reserves are raised in proportion")


@pytest.mark.parametrize("fault", [Fault.FAILED_LATE, Fault.LOST_PROXY, Fault.LOST_GATEWAY])
def test_work_that_a_service_bills_although_it_answers_with_an_error_counts(tmp_path: Path, fault: Fault) -> None:
    cap = 0.02
    with (
        api_server(predicate=lambda ask: fault if ask.attempt == 0 else None) as server,
        engine(tmp_path, endpoint(server.base_url), usd=cap, concurrency=4) as rig,
    ):
        with pytest.raises(LimitReached):
            rig.run([order(number) for number in range(200)])
        bill, accounts = server.usd(PRICE_IN, PRICE_OUT), rig.accounts()
    assert 0 < bill <= sum(accounts.values()) + 1e-12 <= cap + 1e-12
    assert accounts["kept"] > 0
    (warning,) = [each for each in rig.events.of("warning") if each["code"] == "error_billed"]
    assert "whole reserve counts as spent: HTTP 50" in warning["message"]


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.RESET, Fault.DROPPED, Fault.HTML_OK])
def test_a_lost_answer_that_counts_as_spent_is_reported_once(tmp_path: Path, fault: Fault) -> None:
    with (
        api_server(predicate=lambda ask: fault if ask.attempt == 0 else None) as server,
        engine(tmp_path, endpoint(server.base_url), usd=5.0, concurrency=4) as rig,
    ):
        rig.run([order(number) for number in range(4)])
        assert rig.accounts()["kept"] > 0
    (warning,) = rig.events.of("warning")
    assert warning["code"] == "error_billed"
    assert "so their whole reserve counts as spent: " in warning["message"]


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RATE_LIMIT])
def test_a_request_that_a_service_rejects_costs_nothing(tmp_path: Path, fault: Fault) -> None:
    with (
        api_server(predicate=lambda ask: fault if ask.attempt == 0 else None) as server,
        engine(tmp_path, endpoint(server.base_url, group="n"), usd=5.0) as rig,
    ):
        rig.run([order(number) for number in range(3)])
        assert rig.accounts() == {"settled": pytest.approx(server.usd(PRICE_IN, PRICE_OUT)), "void": 0.0}


def test_a_free_service_costs_nothing_whatever_it_states(tmp_path: Path) -> None:
    with (
        api_server(amend=lambda _, body: body | {"usage": body["usage"] | {"cost": 5.0}}) as server,
        engine(tmp_path, endpoint(server.base_url), price=FREE, usd=1.0) as rig,
    ):
        rig.run([order(0)])
        assert rig.accounts() == {"settled": 0.0}
        assert rig.events.of("warning") == []


def _tokens(body: dict[str, Any]) -> tuple[int, int]:
    return body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]


def _overcharge(_ask: object, body: dict[str, Any]) -> dict[str, Any]:
    return body | {"usage": {"prompt_tokens": 5, "completion_tokens": 5000}}


def _adds(tokens: Callable[[object], int]) -> Callable[[object, dict[str, Any]], dict[str, Any]]:
    """Return an ``amend`` that bills more prompt tokens than were sent."""

    def amend(ask: object, body: dict[str, Any]) -> dict[str, Any]:
        usage = body["usage"]
        return body | {"usage": usage | {"prompt_tokens": usage["prompt_tokens"] + tokens(ask)}}

    return amend


def test_cap_already_spent_at_start_falls_back_to_this_machine(tmp_path: Path) -> None:
    with api_server() as server:
        with engine(tmp_path, endpoint(server.base_url), usd=1.0) as rig:
            rig.run([order(number) for number in range(20)])
        asked = len(server.ledger.chats)
        with engine(tmp_path, endpoint(server.base_url), None, usd=0.001, on_limit_local=True) as rig:
            rig.offload.wait_for_probe()
            rig.run([order(20)])
        assert len(server.ledger.chats) == asked
        with engine(tmp_path, endpoint(server.base_url), None, usd=0.001) as rig:
            with pytest.raises(LimitReached, match=r" of 0\.001 USD \(offload\.limits\.usd\)") as caught:
                rig.offload.wait_for_probe()
    assert caught.value.next == "swarmctl run --max-usd 0.008"
    assert "question 20" not in rig.texts()


def test_daily_cap_is_reset_at_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1_000_000.0)
    clock.time = lambda: clock.now
    monkeypatch.setattr("hivemind_exp.offload.ledger.time", clock)
    monkeypatch.setattr("hivemind_exp.offload.router.time", clock)
    with api_server() as server:
        with engine(tmp_path, endpoint(server.base_url), None, usd_per_day=0.005, on_limit_local=True) as rig:
            rig.run([order(number) for number in range(40)])
            today = rig.texts().keys()
            rig.run([order(40)])
            assert rig.texts().keys() == today
            clock.now += 86_400
            rig.run([order(41)])
    assert 0 < len(today) < 40
    assert rig.texts().keys() == today | {"question 41"}
    (told,) = rig.events.of("warning")
    assert told["code"] == "limit"
    assert told["message"].endswith("paid providers are not used until tomorrow (UTC)")


def test_free_provider_is_used_even_when_the_cap_is_spent(tmp_path: Path) -> None:
    with api_server() as server:
        with engine(tmp_path, endpoint(server.base_url), usd=1.0) as rig:
            rig.run([order(number) for number in range(20)])
        with engine(tmp_path, endpoint(server.base_url), price=FREE, usd=0.001, on_limit_local=True) as rig:
            late = order(20)
            rig.offload.submit([late])
            late.done.result()
    assert len(rig.texts()["question 20"]) == 4


def test_requests_cut_off_by_a_stop_are_reported_as_spent(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), timeout=60.0) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.STALL)
        rig.offload.submit([order(0)])
        while len(server.ledger.chats) < 2:
            pass
    accounts = rig.accounts()
    assert accounts["kept"] > 0
    assert sum(event["usd"] for event in rig.events.of("spend")) == pytest.approx(sum(accounts.values()), abs=1e-8)
    assert rig.events.of("spend")[-1]["usd_total"] == pytest.approx(sum(accounts.values()), abs=1e-8)
