"""Paid answers that are of no use are reported with the setting that helps, and requests stop after some time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload import router as routing
from hivemind_exp.offload.prices import Price
from hivemind_exp.offload.request_filler import PROBE_ROUND, TRIES
from hivemind_exp.offload.router import USELESS_IN_A_ROW
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.providers import Group
from tests.support.engine_rig import GROUPS, PRICE, SAMPLING, Rig, endpoint, engine, order, real_chats
from tests.support.fake_api.ask import Ask, Messages
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import ApiServer, api_server

THINKING = replace(SAMPLING, reasoning_tokens=500)


def warnings(rig: Rig, code: str) -> list[str]:
    return [event["message"] for event in rig.events.of("warning") if event["code"] == code]


def asked(server: ApiServer) -> int:
    """Return the number of requests without the test request."""
    return len(real_chats(server))


def only_real(fault: Fault) -> Any:
    return lambda ask: fault if ask.messages[-1]["content"] != TEST_MESSAGES[-1]["content"] else None


@pytest.mark.parametrize("group", GROUPS)
def test_a_service_without_usable_text_is_reported_and_then_no_longer_used(tmp_path: Path, group: Group) -> None:
    with (
        api_server(predicate=only_real(Fault.EMPTY)) as server,
        engine(tmp_path, endpoint(server.base_url, group=group), None, concurrency=4) as rig,
    ):
        rig.offload.wait_for_probe()
        assert rig.events.of("warning") == []
        rig.run([order(number) for number in range(40)])
        (said,) = warnings(rig, "unusable_text")
        assert said == (
            "box:test-model sent an answer without a usable text: it is empty. If that happens often, "
            "choose another model (offload.model)"
        )
        (down,) = [event for event in rig.events.of("warning") if event["code"] == "provider_down"]
        assert f"useless answers ({USELESS_IN_A_ROW} in a row without a usable text" in down["message"]
        assert (down["provider"], down["fallback"]) == ("box", "local")
        assert USELESS_IN_A_ROW <= asked(server) < USELESS_IN_A_ROW + 4
    assert rig.texts() == {}


def test_without_a_fallback_the_node_stops_and_suggests_a_command(tmp_path: Path) -> None:
    with (
        api_server(predicate=only_real(Fault.FILTERED)) as server,
        engine(tmp_path, endpoint(server.base_url), concurrency=4) as rig,
    ):
        rig.offload.wait_for_probe()
        with pytest.raises(
            ProviderError, match=r"the service's filter removed it.* no fallback is available"
        ) as caught:
            rig.run([order(number) for number in range(40)])
        assert caught.value.next == "swarmctl models box"
        assert asked(server) < USELESS_IN_A_ROW + 4


@pytest.mark.slow
def test_a_prompt_without_any_text_is_not_retried_for_every_slot(tmp_path: Path) -> None:
    def mute(ask: Ask) -> Fault | None:
        return Fault.EMPTY if ask.messages[-1]["content"] == "question 1" else None

    with api_server(predicate=mute) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(20)])
        assert sum(entry.messages[-1]["content"] == "question 1" for entry in server.ledger.chats) == TRIES
        assert warnings(rig, "provider_down") == []
    assert len(rig.texts()) == 19


def test_an_answer_with_text_ends_the_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.1)
    monkeypatch.setattr(routing, "_POLL_S", 0.02)
    broken = True

    def predicate(ask: Ask) -> Fault | None:
        return Fault.NULL if broken and ask.messages[-1]["content"] != TEST_MESSAGES[-1]["content"] else None

    with (
        api_server(predicate=predicate) as server,
        engine(tmp_path, endpoint(server.base_url), None, concurrency=4) as rig,
    ):
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(20)])
        assert len(warnings(rig, "provider_down")) == 1
        assert warnings(rig, "provider_back") == []
        broken = False
        number = 20
        while not rig.texts():
            rig.run([order(number, round_=number)])
            number += 1
        assert len(warnings(rig, "provider_back")) == 1


def test_the_test_request_finds_out_that_a_model_reasons_and_allows_more_tokens(tmp_path: Path) -> None:
    with (
        api_server(reasoning=200) as server,
        engine(tmp_path, endpoint(server.base_url), sampling=THINKING) as rig,
    ):
        rig.offload.wait_for_probe()
        limits = [entry.parameters["max_tokens"] for entry in server.ledger.chats]
        assert limits == [SAMPLING.max_tokens, SAMPLING.max_tokens + 500]
        (said,) = warnings(rig, "reasons")
        assert "may use 500 more tokens (offload.reasoning_tokens)" in said
        assert warnings(rig, "unusable_text") == []
        rig.run([order(0)])
    assert len(rig.texts()["question 0"]) == 4


def test_the_reasoning_of_a_free_model_is_not_said_to_cost_money(tmp_path: Path) -> None:
    for price, costs in ((PRICE, True), (Price(0.0, 0.0), False)):
        (tmp_path / str(costs)).mkdir()
        with (
            api_server(reasoning=200) as server,
            engine(tmp_path / str(costs), endpoint(server.base_url), sampling=THINKING, price=price) as rig,
        ):
            rig.offload.wait_for_probe()
            (said,) = warnings(rig, "reasons")
            assert said.endswith(", which cost money, too") is costs


def test_the_warning_about_too_much_reasoning_names_the_setting(tmp_path: Path) -> None:
    with (
        api_server(reasoning=2000) as server,
        engine(tmp_path, endpoint(server.base_url), None, sampling=THINKING) as rig,
    ):
        rig.offload.wait_for_probe()
        (said,) = warnings(rig, "unusable_text")
        assert "hidden reasoning used all of its 564 tokens. Raise offload.reasoning_tokens (now 500)" in said


def test_the_test_request_checks_the_text(tmp_path: Path) -> None:
    def chat(_messages: Messages, _index: int) -> str:
        return "The sum is five."

    with api_server(answer=chat) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        (said,) = warnings(rig, "test_answer")
    assert said.startswith(
        'box:test-model answered the test question ("What is 2 + 3?"), but the text has no readable answer, for '
        'example "The sum is five.". Such answers count as wrong. Choose another model (offload.model), unless this '
        "model was trained for other questions only"
    )


def test_a_missing_model_costs_nothing_and_the_error_names_the_cheapest_others(tmp_path: Path) -> None:
    with api_server(models=["b-large", "a-small"]) as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        with pytest.raises(ProviderError, match="box has no model test-model; it has 2 others, such as a-small") as e:
            rig.offload.wait_for_probe()
        assert e.value.next == "swarmctl models box"
        assert server.ledger.chats == ()
    assert rig.accounts() == {}


def test_a_service_for_own_weights_need_not_list_the_model(tmp_path: Path) -> None:
    with api_server(models=["base"]) as server:
        server.set(models=["base", "test-model"])
        server.always(Fault.SERVER_ERROR, endpoint="models")
        with engine(tmp_path, endpoint(server.base_url)) as rig:
            rig.offload.wait_for_probe()
    with api_server(models=["base"]) as server:
        box = endpoint(server.base_url, serves_own_weights=True)
        with engine(tmp_path / "own", box) as rig, pytest.raises(ProviderError, match="such as base"):
            rig.offload.wait_for_probe()
        assert len(server.ledger.chats) > 0


@pytest.mark.slow
def test_a_fallback_is_tested_before_its_first_use(tmp_path: Path) -> None:
    with api_server() as server, api_server(reasoning=200) as spare:
        chain = (endpoint(server.base_url), endpoint(spare.base_url, name="spare"))
        with engine(tmp_path, *chain, sampling=THINKING) as rig:
            rig.offload.wait_for_probe()
            assert spare.ledger.chats == ()
            server.always(Fault.NO_CREDIT)
            rig.run([order(number) for number in range(4)])
            tests, *real = (entry for entry in spare.ledger.chats)
            assert tests.messages == list(TEST_MESSAGES)
            assert {entry.parameters["max_tokens"] for entry in real} == {SAMPLING.max_tokens + 500}
            assert PROBE_ROUND in {event["round"] for event in _spend(rig)}
    assert len(rig.texts()) == 4


def _spend(rig: Rig) -> list[dict[str, Any]]:
    rig.offload.report_spend(PROBE_ROUND)
    return rig.events.of("spend")


def test_a_provider_that_teaches_nothing_is_not_used_for_the_rest_of_the_run(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), None) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(0)])
        rig.offload.set_aside("box", "none of its last 64 completions taught this node anything", "swarmctl models box")
        rig.run([order(1)])
        (down,) = [event for event in rig.events.of("warning") if event["code"] == "provider_down"]
        assert down["message"].endswith("anything); falling back to this machine for the rest of this run")
        assert down["set_aside"] == "none of its last 64 completions taught this node anything"
    assert set(rig.texts()) == {"question 0"}


def test_without_a_fallback_the_run_stops_and_says_so(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        rig.offload.set_aside("box", "taught nothing", "swarmctl models box")
        with pytest.raises(ProviderError, match=r"taught nothing.*no fallback is available") as caught:
            rig.run([order(1)])
        assert caught.value.next == "swarmctl models box"
        (down,) = [event for event in rig.events.of("warning") if event["code"] == "provider_down"]
        assert down["message"].endswith("(taught nothing); without a fallback, this run will stop")


def test_a_free_provider_stays_in_use(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url), price=Price(0.0, 0.0)) as rig:
        rig.offload.wait_for_probe()
        rig.offload.set_aside("box", "taught nothing", "swarmctl models box")
        rig.run([order(1)])
    assert set(rig.texts()) == {"question 1"}
    assert PRICE.free is False


def test_a_rejected_setting_is_reported(tmp_path: Path) -> None:
    effort = replace(SAMPLING, reasoning_effort="high")
    with (
        api_server(rejects=("reasoning_effort",)) as server,
        engine(tmp_path, endpoint(server.base_url), sampling=effort) as rig,
    ):
        rig.offload.wait_for_probe()
        (said,) = warnings(rig, "parameter_dropped")
        assert said == "box:test-model does not accept reasoning_effort = high; requests are sent without it"


def test_reasoning_that_cannot_be_switched_off_ends_the_run_under_a_cap(tmp_path: Path) -> None:
    off = replace(SAMPLING, reasoning_effort="none")
    with (
        api_server(rejects=("reasoning_effort",)) as server,
        engine(tmp_path, endpoint(server.base_url, bounds_reasoning=False), sampling=off, usd=1.0) as rig,
        pytest.raises(ProviderError, match="cannot be switched off and has no limit"),
    ):
        rig.offload.wait_for_probe()
