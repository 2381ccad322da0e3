"""A node whose completions a judge grades: what it pays, keeps and learns from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import LimitReached
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.secrets import Secrets
from tests.support.fake_api.server import api_server
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.spelling_task import Spelling

pytestmark = pytest.mark.slow
ROWS = 2 * 4
"""Own completions in a round."""


def play(base_url: str, root: Path, rounds: int, usd: float) -> Events:
    config = make_config(
        game={"rounds": rounds, "groups": 2},
        judge={"provider": "box", "weight": 0.5},
        offload={"limits": {"usd": usd}, "prices": {"box": {"input": 1.0, "output": 1.0}}},
        providers={"box": {"base_url": base_url, "model": "test-model"}},
        eval={"questions": 2},
    )
    root.mkdir(exist_ok=True)
    events = Events()
    GRPORunner(config, NodeFiles(root), events, secrets=Secrets(), make_tasks=lambda *_: Spelling()).run()
    return events


def graded(messages: Any, _index: int) -> str:
    return str(len(messages[-1]["content"]) % 11)


def test_grades_are_paid_once_and_change_what_is_learned(tmp_path: Path) -> None:
    with api_server(answer=graded) as server:
        first = play(server.base_url, tmp_path, 1, usd=1.0)
        second = play(server.base_url, tmp_path, 2, usd=1.0)
        asked = [entry for entry in server.ledger.chats if "begins ---" in entry.messages[-1]["content"]]
    judged = [*first.of("judge"), *second.of("judge")]
    assert [(event["round"], event["graded"] + event["ungraded"]) for event in judged] == [(0, ROWS), (1, ROWS)]
    assert len({entry.digest for entry in asked}) == len(asked) <= 2 * ROWS
    assert all(entry.parameters["max_tokens"] == 16 for entry in asked)
    # An untrained model spells nothing right, so only the grades differ.
    assert {event["source"] for event in first.of("step")} == {"policy"}
    assert first.of("rollouts")[0]["terms"].keys() == {"correct", "judge"}
    with closing(sqlite3.connect(NodeFiles(tmp_path).ledger)) as db:
        bills = dict(db.execute("SELECT stage, COUNT(*) FROM requests WHERE state='settled' GROUP BY stage"))
    assert bills == {"probe": 2, "judge": len(asked)}
    assert second.of("spend")[-1]["usd_total"] > 0


def test_the_judge_stops_at_the_nodes_cap(tmp_path: Path) -> None:
    with api_server(answer=graded) as server, pytest.raises(LimitReached, match="spending cap reached"):
        play(server.base_url, tmp_path, 50, usd=0.004)
