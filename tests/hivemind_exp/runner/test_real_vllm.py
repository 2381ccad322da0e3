"""Twenty rounds with a real vLLM on the CPU, which serves this node's weights. ``make test-vllm`` runs this."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.events import Event
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.policy_server_probe import shortcomings
from hivemind_exp.offload.settings import LOCAL, first_endpoint
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.sources import policy_server
from tests.support.nodes import ChanceRewards
from tests.support.real_server import (
    GROUPS,
    ROUNDS,
    SIZE,
    Interrupted,
    Server,
    configure,
    journaled,
    play_whole_weights,
    running,
)
from tests.support.recorded_events import Events
from tests.support.tiny_models import save_for_vllm

VLLM = os.environ.get("VLLM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not VLLM, reason="needs a vLLM: make test-vllm"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_vllm(tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    assert VLLM is not None
    with running("vllm", VLLM, model) as started:
        yield started


@pytest.fixture
def url(server: Server) -> str:
    return server.url


def test_twenty_rounds_are_learned_from_what_vllm_samples_of_the_newest_weights(
    model: Path, url: str, tmp_path: Path
) -> None:
    events = Events()
    began = time.monotonic()
    runner = GRPORunner(configure(model, url), NodeFiles(tmp_path), events, make_tasks=lambda *_: ChanceRewards())
    assert runner.run().round == ROUNDS
    rounds = events.of("rollouts")
    assert [(each["source"], each["count"]) for each in rounds] == [("policy", GROUPS * SIZE)] * ROUNDS
    assert [each["lag"] for each in rounds] == [0, 1] + [2] * (ROUNDS - 2)
    told = {each["code"] for each in events.of("warning")}
    assert not told & {"policy_other", "policy_push", "provider_down"}
    (served,) = [each["message"] for each in events.of("note") if each["code"] == "policy_served"]
    clipped = [each["clip_fraction"] for each in events.of("step") if each["clip_fraction"] is not None]
    assert len(clipped) > ROUNDS / 2
    seconds = [sum(each["seconds"].values()) for each in events.of("round")]
    print(f"\n{served}\n{time.monotonic() - began:.0f} s, median round {sorted(seconds)[ROUNDS // 2]:.2f} s")


def test_the_flags_that_are_missing_are_found(model: Path, url: str, tmp_path: Path) -> None:
    def found(needed: int = 3, **lora: int) -> list[str]:
        config = configure(model, url, **lora)
        return [each.text for each in shortcomings(first_endpoint(config), config, tmp_path / "served", needed)]

    assert found() == []
    (rank,) = found(rank=32)
    assert "--max-lora-rank" in rank
    (most,) = found(needed=9)
    assert "--max-loras 9" in most
    assert not (tmp_path / "served").exists()


def test_turns_are_taken_through_vllms_own_interface(model: Path, url: str, tmp_path: Path) -> None:
    """On a CPU, vLLM gives no memory back, but it pauses and wakes up as on a GPU."""
    config, events = configure(model, url, offload={"serving": {"turns": "on"}}), Events()
    runner = GRPORunner(config, NodeFiles(tmp_path), events, make_tasks=lambda *_: ChanceRewards())
    assert runner.run().round == ROUNDS
    assert [(each["source"], each["count"], each["lag"]) for each in events.of("rollouts")] == [
        ("policy", GROUPS * SIZE, 0)
    ] * ROUNDS
    assert not {each["code"] for each in events.of("warning")} & {"policy_awake", "policy_push", "provider_down"}
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/is_sleeping") as answer:
        assert json.loads(answer.read()) == {"is_sleeping": True}
    woken = urllib.request.Request(f"{url.removesuffix('/v1')}/wake_up", data=b"{}", method="POST")
    with urllib.request.urlopen(woken) as answer:
        assert answer.status == 200


def test_a_server_restarted_between_push_and_request_gets_the_weights_again(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart() -> None:
        server.stop(signal.SIGKILL)
        server.start()

    Interrupted(monkeypatch, 5 * GROUPS + 2, restart)
    events = Events()
    runner = GRPORunner(
        configure(model, server.url, offload={"fallback": []}),
        NodeFiles(tmp_path),
        events,
        make_tasks=lambda *_: ChanceRewards(),
    )
    assert runner.run().round == ROUNDS
    # Nothing is lost or doubled, and all of it was sampled from this node's weights, not from the bare model.
    assert [(each["source"], each["count"]) for each in events.of("rollouts")] == [("policy", GROUPS * SIZE)] * ROUNDS
    assert not {each["code"] for each in events.of("warning")} & {"policy_other", "policy_push"}
    slots = journaled(tmp_path)
    assert len(slots) == len({slot[:3] for slot in slots}) == ROUNDS * GROUPS * SIZE
    assert {source for *_, source in slots} == {"box"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_this_machine_generates_while_the_server_is_gone(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(policy_server, "REST_S", 0.5)
    Interrupted(monkeypatch, 5 * GROUPS + 2, lambda: server.signal(number))
    config = configure(model, server.url, offload={"fallback": ["local"], "limits": {"timeout": 5}})
    events = Events()

    def watch(event: Event) -> None:
        events(event)
        names = [name for name, fields in events.all if name == "round" or fields.get("code") == "provider_down"]
        if event.event_name() == "round" and names[-2:] == ["warning", "round"]:  # a round without the server
            if number is signal.SIGSTOP:
                server.signal(signal.SIGCONT)
            else:
                server.start()

    try:
        runner = GRPORunner(config, NodeFiles(tmp_path), watch, make_tasks=lambda *_: ChanceRewards())
        assert runner.run().round == ROUNDS
    finally:
        server.signal(signal.SIGCONT)
    warnings = events.of("warning")
    (down,) = [each["message"] for each in warnings if each["code"] == "provider_down"]
    assert "falling back to this machine until box is available again" in down
    assert [each["code"] for each in warnings].count("provider_back") == 1
    assert "policy_other" not in {each["code"] for each in warnings}
    slots = journaled(tmp_path)
    assert len(slots) == len({slot[:3] for slot in slots}) == ROUNDS * GROUPS * SIZE, "nothing is lost or doubled"
    by_round: dict[int, set[str]] = defaultdict(set)
    for round_, _, _, source in slots:
        by_round[round_].add(source)
    assert by_round[0] == by_round[ROUNDS - 1] == {"box"}
    assert set().union(*by_round.values()) == {"box", LOCAL}
    print(f"\n{down}\nrounds on this machine: {[at for at, used in by_round.items() if LOCAL in used]}")


def test_all_weights_are_replaced_by_each_push(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_whole_weights(model, server, tmp_path, monkeypatch)
