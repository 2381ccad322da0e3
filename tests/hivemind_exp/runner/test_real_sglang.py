"""Rounds with a real SGLang on the CPU, which serves this node's weights. ``make test-sglang`` runs this."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.policy_server_probe import shortcomings
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.runner.grpo_runner import GRPORunner
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

SGLANG = os.environ.get("SGLANG")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SGLANG, reason="needs an SGLang: make test-sglang"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_vllm(tmp_path_factory.mktemp("sglang") / "model")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    assert SGLANG is not None
    with running("sglang", SGLANG, model) as started:
        yield started


def test_twenty_rounds_are_learned_from_what_sglang_samples_of_the_newest_weights(
    model: Path, server: Server, tmp_path: Path
) -> None:
    events = Events()
    config = configure(model, server.url, engine="sglang")
    assert GRPORunner(config, NodeFiles(tmp_path), events, make_tasks=lambda *_: ChanceRewards()).run().round == ROUNDS
    rounds = events.of("rollouts")
    assert [(each["source"], each["count"]) for each in rounds] == [("policy", GROUPS * SIZE)] * ROUNDS
    assert [each["lag"] for each in rounds] == [0, 1] + [2] * (ROUNDS - 2)
    assert not {each["code"] for each in events.of("warning")} & {"policy_other", "policy_push", "provider_down"}
    (served,) = [each["message"] for each in events.of("note") if each["code"] == "policy_served"]
    print(f"\n{served}")


def test_the_flags_that_are_missing_are_found(model: Path, server: Server, tmp_path: Path) -> None:
    def found(needed: int = 3, turns: str = "off", **lora: int) -> list[str]:
        config = configure(model, server.url, engine="sglang", offload={"serving": {"turns": turns}}, **lora)
        return [each.text for each in shortcomings(first_endpoint(config), config, tmp_path / "served", needed)]

    (seeds,) = found()
    assert "--enable-deterministic-inference" in seeds, "SGLang has no such mode on a CPU"
    rank, _ = found(rank=32)
    assert "--max-lora-rank" in rank
    *_, most = found(needed=9)
    assert "--max-loras-per-batch 9" in most
    sleep, _ = found(turns="on")
    assert "--enable-memory-saver" in sleep
    assert not (tmp_path / "served").exists()


def test_a_server_restarted_between_push_and_request_gets_the_weights_again(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restart() -> None:
        server.stop(signal.SIGKILL)
        server.start()

    Interrupted(monkeypatch, 5 * GROUPS + 2, restart, "sglang")
    events, config = Events(), configure(model, server.url, engine="sglang", offload={"fallback": []})
    assert GRPORunner(config, NodeFiles(tmp_path), events, make_tasks=lambda *_: ChanceRewards()).run().round == ROUNDS
    assert [(each["source"], each["count"]) for each in events.of("rollouts")] == [("policy", GROUPS * SIZE)] * ROUNDS
    assert not {each["code"] for each in events.of("warning")} & {"policy_other", "policy_push"}
    slots = journaled(tmp_path)
    assert len(slots) == len({slot[:3] for slot in slots}) == ROUNDS * GROUPS * SIZE
    assert {source for *_, source in slots} == {"box"}


def test_all_weights_are_replaced_by_each_push(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_whole_weights(model, server, tmp_path, monkeypatch)
