"""An offloading node that is killed at any moment learns from the same batches and ends with the same weights."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.config import Config
from hivemind_exp.events import EventLog
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.fake_api.ask import digest
from tests.support.fake_api.remote import RemoteServer, api_process
from tests.support.nodes import ChanceRewards, make_config
from tests.support.restarts import finished, grown, killed, processes, same_weights

pytestmark = pytest.mark.slow

KILLS = 5
ROUNDS = 10
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
    GRPORunner(configure(base_url, share), NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()


def read(root: Path, query: str) -> list[Any]:
    journal = NodeFiles(root).journal
    if not journal.exists():
        return []
    with closing(sqlite3.connect(journal)) as db:
        (table,) = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='evaluations'").fetchone()
        return db.execute(query).fetchall() if table else []


def completions(root: Path) -> list[Any]:
    """Return all of a node's completions, with their slots and outcomes."""
    fields = "round, question, idx, kind, source, text, ids, truncated, outcome"
    return read(root, f"SELECT {fields} FROM completions ORDER BY round, question, idx")


def manifests(root: Path) -> dict[int, bytes]:
    return dict(read(root, "SELECT step, body FROM manifests"))


def batch(body: bytes) -> tuple[int, tuple[TrainingRow, ...]]:
    """Return what a step learns from. That excludes a text's lag."""
    manifest = Manifest.unpack(body)
    return manifest.seed, tuple(replace(row, lag=None) for row in manifest.rows)


def filled(root: Path) -> set[str]:
    """Return the prompts (as the server's digests) whose API completions are in the journal."""
    query = (
        "SELECT DISTINCT messages FROM prompts JOIN completions USING (swarm, round, question) WHERE kind = 'teacher'"
    )
    return {digest(json.loads(messages)) for (messages,) in read(root, query)}


def asked(server: RemoteServer) -> Counter[str]:
    """Return how often each prompt was requested, without the test request."""
    return Counter(entry.digest for entry in server.settled().chats if entry.messages != list(TEST_MESSAGES))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_kill_9_of_an_offloading_node_changes_no_batches_or_weights(tmp_path: Path, share: float) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    events = root / "events.jsonl"
    forkserver = processes()
    chance = random.Random(f"kill/{share}")
    seen: dict[int, bytes] = {}
    kills, before = 0, Counter[str]()
    with api_process(latency=0.1, answer=ANSWER) as server, api_process(answer=ANSWER) as other:
        for life in range(KILLS + 1):
            held = filled(root)
            node = (forkserver, play, root, server.base_url, share)
            if life < KILLS:
                # A node writes about 1000 bytes of events before its first round, and 1000 per round.
                ready, pause = grown(events, chance.randrange(200, 1500)), chance.uniform(0, 0.1)
                kills += killed(*node, when=ready, pause_s=pause)
            else:
                finished(*node)
            now = asked(server)
            assert not held & (now - before).keys()
            assert max((now - before).values(), default=1) == 1
            before = now
            for step, body in manifests(root).items():
                assert seen.setdefault(step, body) == body
        assert kills >= KILLS // 2
        play(whole, other.base_url, share)
    assert completions(root) == completions(whole)
    assert Counter(row[3] for row in completions(root))["teacher"] == ROUNDS * 3 * 4 * share
    expected = manifests(whole)
    assert expected.keys() >= set(range(2, ROUNDS))
    assert {step: batch(seen[step]) for step in expected} == {step: batch(body) for step, body in expected.items()}
    assert same_weights(root, whole)
