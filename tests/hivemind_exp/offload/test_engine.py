"""The engine against a server with every common fault."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import KeyProblem
from hivemind_exp.offload import request_filler
from hivemind_exp.offload import router as routing
from hivemind_exp.providers import Group
from hivemind_exp.source_kinds import Kind
from tests.support.engine_rig import GROUPS, PRICE_IN, PRICE_OUT, SAMPLING, endpoint, engine, order, real_chats
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import ODD, TRANSIENT, Fault
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import api_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", GROUPS)
def test_every_slot_is_filled_once_and_costs_match_the_server(tmp_path: Path, group: Group) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url, group=group)) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(10)])
        books = server.ledger
    texts = rig.texts()
    assert {len(places) for places in texts.values()} == {4}
    assert len(texts) == 10
    assert all(len(set(places.values())) == 4 for places in texts.values())
    assert len(books.chats) == 1 + (10 if group == "n" else 40)
    assert rig.accounts() == {"settled": pytest.approx(books.usd(PRICE_IN, PRICE_OUT), abs=1e-12)}


def test_first_request_of_a_prompt_is_sent_before_the_others(tmp_path: Path) -> None:
    with api_server(latency=0.1) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.run([order(0)])
        first, *siblings = real_chats(server)
    assert all(entry.started >= (first.ended or 0) for entry in siblings)
    assert len(siblings) == 3


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("fault", [kind for kind in TRANSIENT + ODD if kind is not Fault.LENGTH])
def test_a_single_fault_of_any_kind_loses_no_slot(tmp_path: Path, fault: Fault, group: Group) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url, group=group)) as rig:
        rig.offload.wait_for_probe()
        server.next(fault)
        rig.run([order(0)])
        books = server.ledger
    assert {len(places) for places in rig.texts().values()} == {4}
    delivered = [text for texts in books.texts(Outcome.DELIVERED).values() for text in texts]
    assert set(rig.texts()["question 0"].values()) <= set(delivered)
    accounts = rig.accounts()
    assert accounts["settled"] + accounts.get("kept", 0.0) >= books.usd(PRICE_IN, PRICE_OUT) - 1e-12


def test_truncated_completion_is_kept(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.next(Fault.LENGTH)
        rig.run([order(0, places=1)])
        (entry,) = real_chats(server)
    assert rig.texts()["question 0"] == {0: entry.texts[0]}


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.STALL_BODY, Fault.DRIP])
def test_timed_out_request_is_retried_and_its_reserve_stays_spent(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), timeout=0.5) as rig:
        rig.offload.wait_for_probe()
        server.next(fault)
        rig.run([order(0, places=1)])
    assert len(rig.texts()["question 0"]) == 1
    assert rig.accounts()["kept"] > 0


def test_a_test_request_that_times_out_is_reported(tmp_path: Path) -> None:
    with api_server() as server:
        server.next(Fault.STALL)
        with engine(tmp_path, endpoint(server.base_url), timeout=0.5) as rig:
            rig.offload.wait_for_probe()
    (warning,) = rig.events.of("warning")
    why = (
        "no response within the 0.5 s of offload.limits.timeout; raise it, or shorten the answers with "
        "offload.max_tokens"
    )
    said = f"{endpoint(server.base_url).label} did not answer the test request ({why}); trying again"
    assert (warning["code"], warning["message"]) == ("test_timed_out", said)


def test_of_many_requests_that_time_out_a_lower_concurrency_is_suggested_first(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None, timeout=1.0) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.STALL)
        rig.run([order(number, places=1) for number in range(8)])
    billed, warning = rig.events.of("warning")
    assert billed["code"] == "error_billed"
    why = (
        "no response within the 1 s of offload.limits.timeout; other requests were in flight, too: lower "
        "offload.limits.concurrency, raise the timeout, or shorten the answers with offload.max_tokens"
    )
    assert (warning["code"], why in warning["message"]) == ("provider_down", True), warning


def test_endless_answer_is_cut_off(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.next(Fault.HUGE)
        rig.run([order(0, places=1)])
    assert len(rig.texts()["question 0"]) == 1


def test_slot_without_usable_answers_is_given_up(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.EMPTY)
        rig.run([order(0, places=2)])
        rig.offload.report_spend(0)
        asked = len(server.ledger.chats)
        server.always(None)
        rig.run([order(1, places=2)])
    assert "question 0" not in rig.texts()
    assert len(rig.texts()["question 1"]) == 2
    assert [event["lost"] for event in rig.events.of("spend")] == [0, 2, 0]  # the probe; what failed; what worked
    assert asked == 1 + 6  # not for each of its slots


def test_a_server_that_rejects_neutral_sampling_parameters_is_reported(tmp_path: Path) -> None:
    plain = replace(SAMPLING, plain=True)
    with (
        api_server(rejects=("top_k", "min_p")) as server,
        engine(tmp_path, endpoint(server.base_url), sampling=plain, kind=Kind.POLICY_TEXT) as rig,
    ):
        rig.run([order(0)])
    assert len(rig.texts()["question 0"]) == 4
    told = [event["message"] for event in rig.events.of("warning") if event["code"] == "parameter_dropped"]
    assert sorted(message.partition("; ")[0] for message in told) == [
        "box:test-model does not accept min_p = 0",
        "box:test-model does not accept top_k = -1",
    ]


def test_parameters_adapt_to_what_the_server_rejects(tmp_path: Path) -> None:
    with (
        api_server(rejects=("max_tokens", "temperature", "n")) as server,
        engine(tmp_path, endpoint(server.base_url, group="n")) as rig,
    ):
        rig.run([order(number) for number in range(3)])
        books = server.ledger
    assert {len(places) for places in rig.texts().values()} == {4}
    good = [entry for entry in books.chats if entry.outcome is Outcome.DELIVERED]
    assert all("max_completion_tokens" in entry.parameters for entry in good)


def test_rejected_key_without_fallback_ends_the_run(tmp_path: Path) -> None:
    with api_server(keys={"key-1234"}) as server, engine(tmp_path, endpoint(server.base_url), key="wrong") as rig:
        with pytest.raises(KeyProblem, match="box:test-model: authentication failed") as caught:
            rig.offload.wait_for_probe()
        assert caught.value.next == f"swarmctl keys set box --host {server.base_url}"
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(("fallback", "instead"), [((None,), "local"), ((), None)])
def test_a_provider_that_cannot_be_reached_is_reported_before_the_first_round(
    tmp_path: Path, fallback: tuple[None, ...], instead: str | None
) -> None:
    with api_server() as server:
        address = server.base_url
    with engine(tmp_path, endpoint(address), *fallback) as rig:  # the server is gone
        rig.offload.wait_for_probe()
        (down,) = rig.events.of("warning")
    assert (down["code"], down["provider"], down["fallback"]) == ("provider_down", "box", instead)
    assert "cannot connect to 127.0.0.1" in down["message"]


def test_key_echoed_by_the_service_is_redacted_everywhere(tmp_path: Path) -> None:
    key = "key-1234-secret"
    with (
        api_server(keys={key}, answer=lambda _messages, _index: f"your key is {key}") as server,
        engine(tmp_path, endpoint(server.base_url), None, key=key) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(0)])
        server.set(amend=lambda _ask, _body: {"error": {"message": f"{key} is not welcome", "code": 402}})
        rig.run([order(1)])
    assert len(rig.texts()["question 0"]) == 4
    assert "is not welcome" in rig.events.of("warning")[-1]["message"]
    assert key not in repr(rig.events.of("warning")) + repr(rig.texts())


@pytest.mark.parametrize("fault", [Fault.QUOTA, Fault.NO_CREDIT])
def test_provider_without_credit_is_not_retried(tmp_path: Path, fault: Fault) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None) as rig:
        rig.offload.wait_for_probe()
        server.always(fault)
        rig.run([order(number) for number in range(20)])
        assert len(server.ledger.chats) <= 1 + 20
    assert rig.texts() == {}
    assert len(rig.events.of("warning")) == 1
    assert "out of credit" in rig.events.of("warning")[0]["message"]
    assert "falling back to this machine until box is available again" in rig.events.of("warning")[0]["message"]


def test_outage_without_fallback_is_waited_out_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.2)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        orders = [order(number) for number in range(12)]
        with server.down():
            rig.offload.submit(orders)
            while "provider_down" not in [warning["code"] for warning in rig.events.of("warning")]:
                pass
        rig.offload.wait(0)
    assert {len(places) for places in rig.texts().values()} == {4}
    assert len(rig.texts()) == 12
    # Connections that were open when the server stopped are lost with their requests.
    down, back = [warning for warning in rig.events.of("warning") if warning["code"] != "error_billed"]
    assert (down["code"], back["code"]) == ("provider_down", "provider_back")
    # The last of the failures in a row can be one of these.
    assert "cannot connect to" in down["message"] or "lost the connection to" in down["message"]


def test_single_slot_survives_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.2)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        with server.down():
            rig.offload.submit([order(0, places=1)])
            while not rig.events.of("warning"):
                time.sleep(0.01)
        rig.offload.wait(0)
    assert len(rig.texts()["question 0"]) == 1


def test_single_slot_waits_for_a_busy_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.1)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    monkeypatch.setattr(request_filler, "FIRST_PAUSE_S", 0.01)
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.UNAVAILABLE)
        rig.offload.submit([order(0, places=1)])
        while not rig.events.of("warning"):
            time.sleep(0.01)
        server.always(None)
        rig.offload.wait(0)
    assert len(rig.texts()["question 0"]) == 1
    assert [warning["code"] for warning in rig.events.of("warning")] == ["provider_down", "provider_back"]


def test_a_prompt_that_crashes_its_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.05)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    monkeypatch.setattr(request_filler, "FIRST_PAUSE_S", 0.01)

    def crashes(ask: Ask) -> Fault | None:
        return Fault.DROPPED if ask.messages[-1]["content"] == "question 3" else None

    with api_server(predicate=crashes) as server, engine(tmp_path, endpoint(server.base_url, group="n")) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(5)])
        asked = [entry for entry in server.ledger.chats if entry.messages[-1]["content"] == "question 3"]
    assert len(asked) == request_filler.TRIES
    assert set(rig.texts()) == {f"question {number}" for number in (0, 1, 2, 4)}


@pytest.mark.parametrize("limits", [{"rpm": 3000}, {"tpm": 36_000, "charge": "used"}])
def test_rate_limits_learned_from_answers_are_respected(tmp_path: Path, limits: dict[str, Any]) -> None:
    with api_server(window=4.0, **limits) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.run([order(number) for number in range(58)])
        statuses = Counter(entry.status for entry in server.ledger.chats)
    assert {len(places) for places in rig.texts().values()} == {4}
    # A window holds 200. On a busy machine, a request may arrive in another window than the one it was sent in.
    assert (statuses[200], sum(statuses.values()) - statuses[200]) == (1 + 232, statuses[429])
    assert statuses[429] <= 3


def test_first_request_is_sent_alone(tmp_path: Path) -> None:
    with api_server(latency=0.2) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.run([order(number) for number in range(20)])
        first, *others = server.ledger.chats
    assert all(entry.started >= (first.ended or 0) for entry in others)


def test_earlier_rounds_go_first(tmp_path: Path) -> None:
    with api_server(latency=0.02) as server, engine(tmp_path, endpoint(server.base_url), concurrency=2) as rig:
        rig.offload.wait_for_probe()
        rig.offload.submit([order(number, round_=1) for number in range(20)])
        rig.offload.submit([order(20, round_=0)])
        rig.offload.wait(0)
        asked = Counter(entry.messages[-1]["content"] == "question 20" for entry in server.ledger.chats)
        rig.offload.wait(1)
    assert asked[True] == 4
    assert asked[False] <= 10


def test_ignored_temperature_and_another_model_are_warned_about_once(tmp_path: Path) -> None:
    with api_server(answer=_same) as server, engine(tmp_path, endpoint(server.base_url, group="n")) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.OTHER_MODEL)
        rig.run([order(number) for number in range(8)])
    codes = Counter(warning["code"] for warning in rig.events.of("warning"))
    assert codes == {"greedy": 1, "another_model": 1, "test_answer": 1}


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("org/model", "org/model@main", True),
        ("org/model", "org/model@refs/pr/1", True),
        ("org/model", "model@main", True),
        ("/data/models/model", "/data/models/model@main", True),
        ("model@main", "model", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("mistral-small-latest", "mistral-small-2501", True),
        ("llama3", "llama3:latest", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("org/model", "org/other@main", False),
        ("mistral-small-latest", "mistral-large-2501", False),
        ("/data/models/model", "/data/models/other", False),
    ],
)
def test_revision_date_or_alias_is_not_another_model(tmp_path: Path, asked: str, answered: str, same: bool) -> None:
    def rename(_ask: object, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"model": answered}

    with api_server(models=(asked,), amend=rename) as server:
        with engine(tmp_path, endpoint(server.base_url, model=asked)) as rig:
            rig.offload.wait_for_probe()
    short = [name.removeprefix("/data/models/") for name in (asked, answered)]
    told = [warning["message"] for warning in rig.events.of("warning")]
    assert told == ([] if same else [f"box:{short[0]} was asked for {short[0]} but answered as {short[1]}"])


def _same(_messages: object, _index: int) -> str:
    return "always this"


def test_stop_waits_for_answers_in_flight(tmp_path: Path) -> None:
    with api_server(latency=0.5) as server:
        with engine(tmp_path, endpoint(server.base_url, group="n")) as rig:
            rig.offload.wait_for_probe()
            rig.offload.submit([order(number) for number in range(4)])
            while len(server.ledger.chats) < 5:
                pass
        books = server.ledger
    assert len(rig.texts()) == 4
    assert rig.accounts() == {"settled": pytest.approx(books.usd(PRICE_IN, PRICE_OUT), abs=1e-12)}


@pytest.mark.filterwarnings("error")  # a task that outlives its loop causes a warning
def test_no_requests_are_sent_after_a_stop(tmp_path: Path) -> None:
    with api_server(latency=0.3) as server:
        with engine(tmp_path, endpoint(server.base_url), concurrency=4) as rig:
            rig.offload.wait_for_probe()
            rig.offload.submit([order(number) for number in range(40)])
            while len(server.ledger.chats) < 5:
                pass
        books = server.ledger
    assert books.outcomes() == {"delivered": 1 + 5}  # with the model list
    assert len(rig.texts()) == 4
    assert rig.accounts() == {"settled": pytest.approx(books.usd(PRICE_IN, PRICE_OUT), abs=1e-12)}
