"""A node whose completions a judge grades: what it pays, keeps and learns from."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.config import Config
from hivemind_exp.errors import LimitReached
from hivemind_exp.event_log import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.judge import request_name
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.secrets import Secrets
from tests.support.fake_api.remote import api_process
from tests.support.fake_api.server import api_server
from tests.support.forked_engines import forked_engine
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.restarts import lives, manifests, read, same_batches, same_weights
from tests.support.spelling_task import Spelling
from tests.support.teachers import grade, half_right

pytestmark = pytest.mark.slow
KILLS = 3
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


def configure_both(generator: str, judge: str, rounds: int = 4) -> Config:
    """Return the configuration of a node that lets ``box`` fill half of each group, and ``grader`` grade its own."""
    about = {"model": "test-model"}
    return make_config(
        game={"rounds": rounds, "groups": 2},
        judge={"provider": "grader", "weight": 0.5},
        offload={
            "provider": "box",
            "share": 0.5,
            "fallback": [],
            "limits": {"usd": "unlimited"},
            "prices": {"box": {"input": 2.0, "output": 8.0}, "grader": {"input": 5.0, "output": 20.0}},
        },
        providers={"box": {"base_url": generator, "group": "n", **about}, "grader": {"base_url": judge, **about}},
        generation={"max_completion_tokens": 16},
        eval={"every": 0, "questions": 2},
    )


def play_both(config: Config, root: Path, emit: Any = None) -> Events:
    root.mkdir(exist_ok=True)
    events = emit or Events()
    GRPORunner(config, NodeFiles(root), events, secrets=Secrets(), make_tasks=lambda *_: Spelling()).run()
    return events


def quoted(messages: Any) -> tuple[str, str]:
    """Return the question and the completion that a judge is asked about."""
    lines = messages[-1]["content"].splitlines()
    marks = [place for place, line in enumerate(lines) if line.startswith("--- ")]
    question, text = (lines[marks[n] + 1 : marks[n + 1]] for n in (0, 2))
    return "\n".join(question), "\n".join(text)


def judged(books: Any) -> Counter[tuple[str, str]]:
    """Return how often each completion was sent to the judge."""
    asked = [entry for entry in books.chats if "begins ---" in entry.messages[-1]["content"]]
    return Counter(quoted(entry.messages) for entry in asked)


def bills(root: Path) -> dict[str, float]:
    """Return what each provider has cost, according to the node's ledger."""
    query = "SELECT provider, TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests GROUP BY 1"
    with closing(sqlite3.connect(NodeFiles(root).ledger)) as db:
        return dict(db.execute(query).fetchall())


def test_one_provider_generates_and_another_grades(tmp_path: Path) -> None:
    with api_server(answer=half_right) as generator, api_server(answer=grade) as judge:
        events = play_both(configure_both(generator.base_url, judge.base_url, rounds=3), tmp_path)
        paid = {"box": generator.usd(2.0, 8.0), "grader": judge.usd(5.0, 20.0)}
        assert all("begins ---" not in entry.messages[-1]["content"] for entry in generator.ledger.chats)
        asked = judged(judge.ledger)
    assert bills(tmp_path) == pytest.approx(paid, abs=1e-12)
    assert [event["usd_total"] for event in events.of("spend")][-1] == pytest.approx(sum(paid.values()), abs=1e-7)
    assert set(asked.values()) == {1}
    rows = read(tmp_path, "SELECT stage, kind, COUNT(*) FROM completions GROUP BY stage, kind")
    assert [row[:2] for row in rows] == [("answer", "policy"), ("answer", "teacher"), ("judge", "teacher")]
    assert [number for *_, number in rows] == [12, 12, len(asked)]
    assert [event["graded"] + event["ungraded"] for event in events.of("judge")] == [4, 4, 4]
    terms = {event["source"]: event["terms"] for event in events.of("rollouts")}
    assert terms["policy"].keys() == {"correct", "judge"}
    assert terms["teacher"] is None  # its completions have no grade
    learned = {event["source"] for event in events.of("step") if event["source_rows"]}
    assert learned == {"policy", "teacher"}


@pytest.mark.timeout(900)
def test_kill_9_of_such_a_node_pays_neither_twice_and_changes_no_weights(tmp_path: Path) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    seen: dict[int, bytes] = {}
    how: dict[str, Any] = {"chance": random.Random("both"), "growth": range(200, 1500), "longest_s": 0.1}
    half, grades = "tests.support.teachers:half_right", "tests.support.teachers:grade"
    with (
        api_process(latency=0.05, answer=half) as generator,
        api_process(latency=0.05, answer=grades) as judge,
        api_process(answer=half) as other_generator,
        api_process(answer=grades) as other_judge,
    ):
        held, before = set[tuple[str, str]](), Counter[tuple[str, str]]()
        for _ in lives(play_killable, root, generator.base_url, judge.base_url, seen=seen, times=KILLS, **how):
            now = judged(judge.settled())
            assert not held & (now - before).keys(), "grades in the journal were asked for again"
            assert max((now - before).values(), default=1) == 1
            held, before = kept_grades(root), now
        play_killable(whole, other_generator.base_url, other_judge.base_url)
        paid = {"box": generator.settled().usd(2.0, 8.0), "grader": judge.settled().usd(5.0, 20.0)}
    found = bills(root)
    assert all(found[name] >= paid[name] - 1e-12 for name in paid)
    stages = "SELECT round, stage, question, idx, kind, text, outcome FROM completions ORDER BY 1, 2, 3, 4"
    assert read(root, stages) == read(whole, stages)
    assert same_batches(seen, manifests(whole))
    assert same_weights(root, whole)


def play_killable(root: Path, generator: str, judge: str) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    config = configure_both(generator, judge)
    with forked_engine(config):
        play_both(config, root, EventLog(root / "events.jsonl"))


def kept_grades(root: Path) -> set[tuple[str, str]]:
    """Return the questions and completions whose grades are in the journal."""
    names = {name for (name,) in read(root, "SELECT question FROM completions WHERE stage='judge'")}
    query = (
        "SELECT messages, question, text FROM prompts JOIN completions USING (swarm, round, stage, question) "
        "WHERE stage='answer' AND kind='policy'"
    )
    config = Config.model_validate(
        {"judge": {"provider": "grader"}, "providers": {"grader": {"base_url": "http://127.0.0.1:9/v1"}}}
    )
    return {
        (json.loads(messages)[-1]["content"], text)
        for messages, digest, text in read(root, query)
        if request_name(config, digest, text) in names
    }


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
