"""A whole node that learns from a server of its own weights."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import torch

from hivemind_exp.journal.audit import open_manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import ChanceRewards, make_config
from tests.support.policy_server import policy_server
from tests.support.policy_server_nodes import STAND_INS
from tests.support.recorded_events import Events
from tests.support.tiny_models import save_llama


@pytest.mark.slow
@pytest.mark.parametrize("engine", STAND_INS)
def test_a_node_learns_from_its_served_policy_and_resumes(tmp_path: Path, engine: str) -> None:
    torch.manual_seed(0)
    directory, root = save_llama(tmp_path / "llama"), tmp_path / "node"
    root.mkdir()

    def play(rounds: int, url: str, turns: str = "auto") -> Events:
        config = make_config(
            model={"name": str(directory), "lora": {"rank": 4}},
            prompt={"style": "tags"},
            offload={"provider": "box", "kind": "policy", "serving": {"urls": [url], "turns": turns, "engine": engine}},
            generation={"max_completion_tokens": 6, "max_prompt_tokens": 300},
            providers={"box": {"base_url": url, "model": "policy", "free": True}},
            game={"rounds": rounds, "groups": 4, "group_size": 4},
            eval={"every": 0, "questions": 1},
            checkpoint={"every": 1, "keep": 2},
        )
        events = Events()
        GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: ChanceRewards()).run()
        return events

    with policy_server(directory, STAND_INS[engine]) as (server, url):
        events = play(3, url)
        assert [event["lag"] for event in events.of("rollouts")] == [0, 1, 2]
        assert [event["source"] for event in events.of("step")] == ["policy"] * 3
        assert any(event["clip_fraction"] is not None for event in events.of("step"))
        assert all(event["tokens_per_second"] is None for event in events.of("round"))
        assert not [event for event in events.of("warning") if event["provider"] is not None]
        events = play(5, url)
        assert [event["lag"] for event in events.of("rollouts")] == [0, 1]
        assert server.adapters == []
        assert "sleep" not in server.turns
        events = play(7, url, turns="on")
        assert [event["lag"] for event in events.of("rollouts")] == [0, 0]
        assert [each for each in server.turns if each in ("sleep", "wake_up")] == ["sleep", *2 * ["wake_up", "sleep"]]
        assert server.while_asleep == []
    journal = sqlite3.connect(root / "journal.sqlite")
    kept = journal.execute("SELECT round, kind, source, version, ids, logps FROM completions ORDER BY round").fetchall()
    versions = [0, 0, 0, 3, 3, 5, 6]
    assert [(round_, version) for round_, _, _, version, *_ in kept[::16]] == list(enumerate(versions))
    assert all((kind, source) == ("policy", "box") for _, kind, source, *_ in kept)
    assert all(len(json.loads(ids)) == len(json.loads(logps)) for *_, ids, logps in kept)
    sampled = {(tuple(json.loads(ids)), tuple(json.loads(logps))) for *_, ids, logps in kept}
    stored = journal.execute(
        "SELECT step, body, sha256 FROM manifests LEFT JOIN digests USING (step) ORDER BY step"
    ).fetchall()
    learned = [row for step in stored for row in open_manifest(*step).rows]
    assert learned, "steps that checkpoints don't cover are kept"
    assert {(row.completion_ids, row.behaviour_logps) for row in learned} <= sampled
