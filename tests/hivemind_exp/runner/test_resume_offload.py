"""An offloading node that is killed at any moment learns from the same batches and ends with the same weights."""

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
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.fake_api.ask import digest
from tests.support.fake_api.remote import api_process
from tests.support.forked_engines import forked_engine
from tests.support.nodes import ChanceRewards, make_config
from tests.support.restarts import asked, completions, lives, manifests, read, same_batches, same_weights

pytestmark = pytest.mark.slow

KILLS = 3
ROUNDS = 6
ANSWER = "tests.support.teachers:two_letters"


def configure(base_url: str, share: float) -> Config:
    offload: dict[str, Any] = {"provider": "box", "share": share, "fallback": []}
    box: dict[str, Any] = {"base_url": base_url, "model": "test-model", "group": "n", "free": True}
    return make_config(offload=offload, providers={"box": box}, checkpoint={"keep": ROUNDS}, game={"rounds": ROUNDS})


def play(root: Path, base_url: str, share: float) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    log = EventLog(root / "events.jsonl")
    config = configure(base_url, share)
    with forked_engine(config):
        GRPORunner(config, NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()


def filled(root: Path) -> set[str]:
    """Return the prompts (as the server's digests) whose API completions are in the journal."""
    query = (
        "SELECT DISTINCT messages FROM prompts JOIN completions USING (swarm, round, question) WHERE kind = 'teacher'"
    )
    return {digest(json.loads(messages)) for (messages,) in read(root, query)}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_kill_9_of_an_offloading_node_changes_no_batches_or_weights(tmp_path: Path, share: float) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    seen: dict[int, bytes] = {}
    held, before = set[str](), Counter[str]()
    # A node writes about 1000 bytes of events before its first round, and 1000 per round.
    how: dict[str, Any] = {"chance": random.Random(f"kill/{share}"), "growth": range(200, 1500), "longest_s": 0.1}
    with api_process(latency=0.1, answer=ANSWER) as server, api_process(answer=ANSWER) as other:
        for _ in lives(play, root, server.base_url, share, seen=seen, times=KILLS, **how):
            now = asked(server)
            assert not held & (now - before).keys()
            assert max((now - before).values(), default=1) == 1
            held, before = filled(root), now
        play(whole, other.base_url, share)
    assert completions(root) == completions(whole)
    assert Counter(row[3] for row in completions(root))["teacher"] == ROUNDS * 3 * 4 * share
    expected = manifests(whole)
    assert expected.keys() >= set(range(2, ROUNDS))
    assert same_batches(seen, expected)
    assert same_weights(root, whole)
