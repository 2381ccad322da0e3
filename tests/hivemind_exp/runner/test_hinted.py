"""Nodes that learn from an API's hints: what they request, learn from and report, and that kill -9 changes nothing."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.config import Config
from hivemind_exp.event_log import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.hints import hint_messages
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Score
from tests.support.fake_api.ask import digest
from tests.support.fake_api.remote import api_process
from tests.support.fake_api.server import api_server
from tests.support.forked_engines import forked_engine
from tests.support.nodes import ChanceRewards, make_config
from tests.support.recorded_events import Events
from tests.support.restarts import asked, batch, completions, lives, manifests, read, same_batches, same_weights

pytestmark = pytest.mark.slow

KILLS, ROUNDS = 3, 3
PRICE = {"input": 1.0, "output": 2.0}
HINT = "tests.hivemind_exp.runner.test_hinted:hint"


class RareRewards(ChanceRewards):
    """Rates a random quarter of all answers as correct, so that some groups have no correct one."""

    def score(self, questions: Any, completions: Any) -> Any:
        return [
            Score(float(derive_seed(question.digest, text) % 4 == 0), True, "chance")
            for question, text in zip(questions, completions, strict=True)
        ]


def configure(base_url: str, rounds: int, **offload: Any) -> Config:
    return make_config(
        game={"rounds": rounds},
        offload={"provider": "box", "teach": "hints", "fallback": [], "prices": {"box": PRICE}, **offload},
        providers={"box": {"base_url": base_url, "model": "test-model"}},
        checkpoint={"keep": rounds},
        generation={"max_prompt_tokens": 128, "max_completion_tokens": 96},  # a text that is cut earns nothing
    )


def play(config: Config, root: Path, emit: Any = None) -> Events:
    root.mkdir(exist_ok=True)
    events = emit or Events()
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: RareRewards()).run()
    return events


def play_killable(root: Path, base_url: str) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    config = configure(base_url, ROUNDS)
    with forked_engine(config):
        play(config, root, EventLog(root / "events.jsonl"))


def hint(messages: Any, _index: int) -> str:
    return f"Look at {messages[-1]['content'].split()[-1][0]}."


def test_hints_are_paid_for_and_learned_from_only_where_the_node_fails(tmp_path: Path) -> None:
    with api_server(answer=hint) as server:
        events = play(configure(server.base_url, 6), tmp_path)
        bill = server.usd(PRICE["input"], PRICE["output"])
    made = {(event["round"], event["source"]): event for event in events.of("rollouts")}
    hints = {event["round"]: event for event in events.of("hints")}
    assert sum(event["hints"] for event in hints.values()) > 3
    assert sum(event["taught"] for event in hints.values()) > 0
    for round_, event in hints.items():
        used = event["hints"] - event["refused"]
        assert made.get((round_, "hinted"), {"count": 0})["count"] == 4 * used
        assert event["taught"] == event["solved"] <= used
    learned = {event["step"]: event for event in events.of("step") if event["source"] == "hinted"}
    assert {event["round"] for event in learned.values()} == {
        round_ for round_, event in hints.items() if event["taught"]
    }
    assert all(event["nll"] > 0 for event in learned.values())
    # One short request for each hint, and the test request.
    spent = events.of("spend")
    assert sum(event["requests"] for event in spent) == 1 + sum(event["hints"] for event in hints.values())
    assert sum(event["usd"] for event in spent) == pytest.approx(bill)
    rows = read(tmp_path, "SELECT stage, kind, COUNT(*) FROM completions GROUP BY stage, kind")
    assert {(stage, kind) for stage, kind, _ in rows} == {
        ("answer", "policy"),
        ("answer", "hinted"),
        ("hint", "teacher"),
    }


def test_a_node_without_its_hint_giver_learns_from_its_own_samples(tmp_path: Path) -> None:
    with api_server(answer=hint) as server:
        server.always("no_credit")
        events = play(configure(server.base_url, 3, fallback=["local"]), tmp_path)
    assert {event["source"] for event in events.of("rollouts")} == {"policy"}
    assert events.of("hints") == []
    assert [event["round"] for event in events.of("round")] == [0, 1, 2]
    assert [warning["code"] for warning in events.of("warning")] == ["provider_down"]


def given(root: Path) -> set[str]:
    """Return the requests (as the server's digests) whose hints are in the journal."""
    query = (
        "SELECT messages FROM prompts JOIN completions USING (swarm, round, question) "
        "WHERE prompts.stage='answer' AND completions.stage='hint'"
    )
    return {digest(list(hint_messages(json.loads(messages)[-1]["content"]))) for (messages,) in read(root, query)}


def test_kill_9_of_a_hinted_node_pays_for_no_hint_twice_and_changes_no_weights(tmp_path: Path) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    seen: dict[int, bytes] = {}
    held, before = set[str](), Counter[str]()
    how: dict[str, Any] = {"chance": random.Random("hints"), "growth": range(200, 1500), "longest_s": 0.1}
    with api_process(latency=0.1, answer=HINT) as server, api_process(answer=HINT) as other:
        for _ in lives(play_killable, root, server.base_url, seen=seen, times=KILLS, **how):
            now = asked(server)
            assert not held & (now - before).keys()
            assert max((now - before).values(), default=1) == 1
            held, before = given(root), now
        play_killable(whole, other.base_url)
    assert completions(root) == completions(whole)
    assert Counter(row[3] for row in completions(root))["hinted"] > 0
    expected = manifests(whole)
    assert same_batches(seen, expected)
    assert any(row.kind is Kind.HINTED and row.advantage for body in expected.values() for row in batch(body)[1])
    assert same_weights(root, whole)
