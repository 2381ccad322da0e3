"""Nodes whose rollouts come partly, alternately or entirely from an API: what they request, learn from and resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.spelling_task import Spelling

pytestmark = pytest.mark.slow


def configure(base_url: str, rounds: int, **offload: Any) -> Config:
    return make_config(
        game={"rounds": rounds, "groups": 2},
        generation={"max_completion_tokens": 64},
        offload={"provider": "box", **offload},
        providers={"box": {"base_url": base_url, "model": "test-model", "free": True}},
    )


def play(config: Config, root: Path) -> Events:
    """Run a node. An untrained model spells nothing right."""
    root.mkdir(exist_ok=True)
    events = Events()
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: Spelling()).run()
    return events


def rollouts(events: Events) -> dict[str, int]:
    """Return the number of rollouts from each source."""
    counts: dict[str, int] = {}
    for event in events.of("rollouts"):
        counts[event["source"]] = counts.get(event["source"], 0) + event["count"]
    return counts


def spelled(messages: Any, index: int) -> str:
    """Answer correctly every other time, in the requested format."""
    word = re.sub(r".*: ", "", messages[-1]["content"])
    return f"<answer>{word[::-1] if index % 2 else word}</answer>"


def test_the_api_is_used_only_if_no_own_sample_is_right(tmp_path: Path) -> None:
    with api_server(answer=spelled) as server:
        events = play(configure(server.base_url, 2, when="failed", share=0.5), tmp_path)
    assert rollouts(events) == {"policy": 2 * 2 * 4, "teacher": 2 * 2 * 2}
    assert {(event["source"], event["rows"]) for event in events.of("step")} == {("teacher", 2)}


def test_this_machine_takes_over_when_a_provider_fails(tmp_path: Path) -> None:
    asked: list[Ask] = []

    def dies_after_twelve(ask: Ask) -> Fault | None:
        asked.append(ask)
        return None if len(asked) <= 12 else Fault.NO_CREDIT

    with api_server(predicate=dies_after_twelve) as server:
        events = play(configure(server.base_url, 3), tmp_path)
    counts = rollouts(events)
    assert sum(counts.values()) == 3 * 2 * 4
    assert counts["policy"] == 3 * 2 * 4 - 11  # one of the twelve was the probe
    # The server's answers are all wrong.
    assert [warning["code"] for warning in events.of("warning")] == ["provider_down", "taught_nothing"]


def test_a_relay_resumes_after_its_last_round_and_requests_nothing_twice(tmp_path: Path) -> None:
    with api_server(answer=spelled) as server:
        first = play(configure(server.base_url, 3, kind="relay"), tmp_path)
        assert len(server.ledger.chats) == 1 + 3 * 8
        second = play(configure(server.base_url, 4, kind="relay"), tmp_path)
        assert len(server.ledger.chats) == 1 + 3 * 8 + 1 + 8
    assert [event["correct"] for events in (first, second) for event in events.of("rollouts")] == [4, 4, 4, 4]
    assert first.of("step") == second.of("step") == []


def test_a_node_that_has_lost_all_other_records_knows_from_its_checkpoint_what_it_has_spent(tmp_path: Path) -> None:
    with api_server(answer=spelled) as server:
        prices = {"box": {"input": 1.0, "output": 4.0}}
        free = configure(server.base_url, 2, share=0.5, prices=prices)
        paid = {"box": free.providers["box"].model_copy(update={"free": False})}
        config = free.model_copy(update={"providers": paid})
        play(config, tmp_path)
        files = NodeFiles(tmp_path)
        before = spent_so_far(files)
        assert before > 0
        for path in (*tmp_path.glob("*.sqlite*"), files.spent, files.events):
            path.unlink(missing_ok=True)
        assert spent_so_far(files) == pytest.approx(before)
        more = config.model_copy(update={"game": config.game.model_copy(update={"rounds": 3})})
        (warning,) = [each for each in play(more, tmp_path).of("warning") if each["code"] == "ledger_restored"]
        assert "which counts toward the cap again" in warning["message"]
        assert spent_so_far(files) > before
