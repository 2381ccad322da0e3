"""A node with a teacher that is killed at any moment pays for no score twice, and ends with the same weights."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hivemind_exp.event_log import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.fake_api.remote import RemoteServer, api_process
from tests.support.forked_engines import forked_engine
from tests.support.nodes import ChanceRewards, make_config
from tests.support.restarts import batch, finished, killed_often, manifests, processes, same_batches, same_weights
from tests.support.tiny_models import vocabulary

pytestmark = pytest.mark.slow
KILLS, ROUNDS = 3, 6
VOCABULARY = vocabulary()


def play(root: Path, base_url: str) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    config = make_config(
        offload={"provider": "box", "teach": "distillation", "fallback": []},
        providers={"box": {"base_url": base_url, "model": "test-model", "free": True}},
        checkpoint={"keep": ROUNDS},
        game={"rounds": ROUNDS},
    )
    log = EventLog(root / "events.jsonl")
    with forked_engine(config):
        GRPORunner(config, NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()


def sent(server: RemoteServer) -> set[str]:
    """Return the completions that were sent, without the tests at the start of each life."""
    return {entry.digest for entry in server.settled().scores if entry.prompt_tokens < 60}


def test_kill_9_of_a_distilled_node_pays_once_and_changes_no_weights(tmp_path: Path) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    chance, options = random.Random("distilled"), {"vocabulary": VOCABULARY, "latency": 0.05}
    with api_process(**options) as server, api_process(vocabulary=VOCABULARY) as other:
        seen = killed_often(
            play, root, server.base_url, times=KILLS, chance=chance, growth=range(200, 1500), longest_s=0.1
        )
        finished(processes(), play, whole, other.base_url)
        assert sent(server) == sent(other)
    # What was in flight when the node died may be asked again, but nothing whose scores are in the journal.
    with closing(sqlite3.connect(NodeFiles(root).ledger)) as db:
        paid = db.execute("SELECT question, SUM(state='settled') FROM requests WHERE round>=0 GROUP BY question")
        assert {times for _, times in paid} <= {0, 1}
    expected = manifests(whole)
    scored = [row for body in expected.values() for row in batch(body)[1]]
    assert scored
    assert all(row.teacher == "box:test-model" for row in scored)
    assert same_batches(seen, expected)
    assert same_weights(root, whole)
