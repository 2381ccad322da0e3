"""Taking turns on one GPU with a server of this node's weights, against stand-ins with a real tiny model."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources import turns
from tests.support.policy_server_nodes import STAND_INS, Node, rows

pytestmark = pytest.mark.slow
TURNS: dict[str, Any] = {"serving": {"turns": "on"}}

each_engine = pytest.mark.parametrize("engine", STAND_INS)


def told(node: Node) -> list[str]:
    return node.told("policy_awake")


@each_engine
def test_a_server_is_awake_only_to_load_and_to_generate(make_node: Any) -> None:
    node = make_node(offload=TURNS)
    (server,) = node.servers
    assert server.turns == ["sleep"], "the node trains or evaluates first"
    for round_ in range(2):
        node.step()
        node.source.request(node.ask(round_))
        assert server.asleep, "nothing is asked for early"
        assert {(row.kind, row.lag) for row in rows(node.play(round_))} == {(Kind.POLICY, 0)}
        assert server.asleep
    assert server.turns == ["sleep", *2 * ["wake_up", "load", *3 * ["complete"], "sleep"]]
    assert server.while_asleep == []
    node.source.close()
    assert server.adapters == []
    assert server.asleep, "unloading needs no GPU"
    assert told(node) == []


def test_this_machine_gives_back_what_torch_keeps_before_the_server_wakes(
    make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(offload=TURNS)
    (server,) = node.servers
    monkeypatch.setattr(turns, "release_kept", lambda device: server.turns.append(f"release {device}"))
    node.step()
    node.play(0)
    assert server.turns[1:3] == ["release cpu", "wake_up"]


@each_engine
def test_all_replicas_take_turns(make_node: Any) -> None:
    node = make_node(urls=2, offload=TURNS)
    node.step()
    assert len(rows(node.play(0))) == 12
    for server in node.servers:
        assert [each for each in server.turns if each in ("sleep", "wake_up")] == ["sleep", "wake_up", "sleep"]
        assert (server.asleep, server.while_asleep) == (True, [])


@each_engine
def test_a_server_that_refuses_to_sleep_keeps_generating_and_is_asked_again(make_node: Any) -> None:
    node = make_node(offload=TURNS, refuses_sleep=True)
    (server,) = node.servers
    for round_ in range(2):
        node.step()
        assert {(row.kind, row.lag) for row in rows(node.play(round_))} == {(Kind.POLICY, 0)}
    ((message),) = told(node)
    assert "does not fall asleep, so it keeps its memory while this machine trains" in message
    assert "out of memory" in message
    assert "offload.serving.turns = off" in message
    server.refuses_sleep = False
    node.play(2)
    assert server.asleep
    server.refuses_sleep = True
    node.step()
    node.play(3)
    assert len(told(node)) == 2, "it slept in between"


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("vllm", ("--enable-sleep-mode", "VLLM_SERVER_DEV_MODE=1")),
        ("sglang", ("--enable-memory-saver", "--enable-weights-cpu-backup")),
    ],
)
def test_a_server_that_cannot_sleep_is_never_woken_and_the_flags_are_named(
    make_node: Any, flags: tuple[str, ...]
) -> None:
    node = make_node(offload=TURNS, sleeps=False)
    for round_ in range(2):
        node.step()
        assert {row.lag for row in rows(node.play(round_))} == {0}
    ((message),) = told(node)
    assert [flag in message for flag in flags] == [True, True]
    assert node.told("provider_down") == []


@pytest.mark.parametrize("engine", ["sglang"])
def test_an_sglang_that_sleeps_since_an_earlier_run_is_not_asked_to_sleep_again(make_node: Any) -> None:
    """It would end."""
    killed = make_node(offload=TURNS)
    (server,) = killed.servers
    node = make_node(offload=TURNS, url=f"http://{killed.source._endpoint.host}/v1")
    assert (server.turns, server.asleep, server.down) == (["sleep"], True, False)
    node.step()
    assert {row.lag for row in rows(node.play(0))} == {0}
    assert (server.turns[-1], server.down) == ("sleep", False)


@pytest.mark.parametrize("engine", ["sglang"])
def test_an_sglang_that_still_works_is_not_put_to_sleep(make_node: Any) -> None:
    """It would end."""
    node = make_node(offload=TURNS, busy=True)
    (server,) = node.servers
    assert (server.turns, server.asleep) == ([], False)
    assert "Flush cache failed" in told(node)[0]
    server.busy = False
    node.step()
    assert {row.lag for row in rows(node.play(0))} == {0}
    assert (server.turns[-1], server.asleep, server.down) == ("sleep", True, False)


def test_a_server_that_does_not_wake_up_leaves_its_slots_to_this_machine(
    make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.sources.policy_server.REST_S", 0.0)
    node = make_node(offload=TURNS)
    (server,) = node.servers
    server.refuses_to_wake = True
    for round_ in range(2):
        node.step()
        assert node.play(round_) == []
    ((message),) = node.told("provider_down")
    assert "does not wake up (" in message
    assert "out of memory" in message
    assert "To keep it awake, set offload.serving.turns = off; falling back to this machine" in message
    assert server.while_asleep == []
    server.refuses_to_wake = False
    assert {row.lag for row in rows(node.play(2))} == {0}
    assert len(node.told("provider_back")) == 1
    assert server.asleep


def test_while_a_server_rests_after_a_failure_nothing_is_asked_of_it(make_node: Any) -> None:
    node = make_node(offload=TURNS)
    (server,) = node.servers
    server.refuses_to_wake = True
    node.step()
    assert node.play(0) == node.play(1) == []
    assert server.turns == ["sleep", "wake_up"]


def test_a_server_that_hangs_while_it_wakes_up_is_given_up(make_node: Any) -> None:
    answered = threading.Event()
    node = make_node(offload={**TURNS, "limits": {"timeout": 0.5}}, hangs=answered)
    node.step()
    assert node.play(0) == []
    ((message),) = node.told("provider_down")
    assert "no answer within the 0.5 s of offload.limits.timeout" in message
    assert "offload.max_tokens" not in message
    answered.set()


@each_engine
def test_adapters_that_are_lost_while_the_server_sleeps_are_loaded_again(make_node: Any) -> None:
    node = make_node(offload=TURNS)
    (server,) = node.servers
    node.step()
    node.play(0)
    server.loses_adapters = True
    assert {(row.kind, row.lag) for row in rows(node.play(1))} == {(Kind.POLICY, 0)}
    assert node.told("policy_other") == node.told("provider_down") == []
    assert len(server.loads) > 1


def test_what_is_late_is_cancelled_before_the_server_sleeps(make_node: Any) -> None:
    node = make_node(offload=TURNS)
    (server,) = node.servers
    server.holds = threading.Event()
    node.step()
    late = replace(node.ask(0), deadline=time.monotonic())
    assert list(node.source.collect(late)) == []
    assert [each for each in server.turns if each != "complete"] == ["sleep", "wake_up", "load", "sleep"]
    assert not +node.source._replicas._in_flight
    server.holds.set()


def test_a_completion_that_the_server_cut_short_is_not_learned_from(make_node: Any) -> None:
    node = make_node(offload=TURNS, aborts=True)
    node.step()
    assert node.play(0) == []
    assert "ended a completion before its end" in node.told("provider_down")[0]
