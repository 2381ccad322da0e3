"""A study group of one node: rounds of stages without a clock, and a stop or kill between any two of them."""

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
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.event_log import EventLog
from hivemind_exp.game.study_group import game as study_group
from hivemind_exp.game_settings import STAGE_NAMES as STAGES
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag, StopRequested
from tests.support.nodes import ChanceRewards, Events, make_config, run
from tests.support.restarts import Interrupter, killed_often, same_weights

ROUNDS = 2
KILLS = 4


def make(**sections: dict[str, Any]) -> Config:
    game = {"kind": "study-group", "rounds": ROUNDS, "groups": 2, **sections.pop("game", {})}
    lengths = {"max_prompt_tokens": 600, "max_completion_tokens": 12, **sections.pop("generation", {})}
    return make_config(game=game, generation=lengths, **sections)


def read(root: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(NodeFiles(root).journal)) as db:
        return db.execute(query).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    log = EventLog(root / "events.jsonl")
    GRPORunner(make(), NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()
    return root


def events(root: Path, name: str) -> list[dict[str, Any]]:
    lines = (root / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


@pytest.mark.slow
def test_a_round_is_a_step_for_each_stage_on_the_same_questions(whole: Path) -> None:
    assert [(step["round"], step["stage"]) for step in events(whole, "step")] == [
        (round_, stage) for round_ in range(ROUNDS) for stage in STAGES
    ]
    assert [event["round"] for event in events(whole, "round")] == list(range(ROUNDS))
    assert [(event["stage"], event["count"]) for event in events(whole, "rollouts")] == [
        (s, 8) for s in STAGES
    ] * ROUNDS
    asked = read(whole, "SELECT round, stage, question FROM prompts")
    for round_ in range(ROUNDS):
        by_stage = [{q for r, s, q in asked if (r, s) == (round_, stage)} for stage in STAGES]
        assert by_stage[0] == by_stage[1] == by_stage[2]
        assert len(by_stage[0]) == 2


@pytest.mark.slow
def test_later_stages_show_own_answers_and_critiques_with_the_question(whole: Path) -> None:
    texts = {(r, q): text for r, q, text in read(whole, "SELECT round, question, text FROM completions WHERE idx = 0")}
    prompts = read(
        whole,
        "SELECT round, stage, question, messages, body FROM prompts JOIN notes USING (swarm, round, stage, question)",
    )
    assert Counter(stage for _, stage, *_ in prompts) == {"critique": 2 * ROUNDS, "resolve": 2 * ROUNDS}
    assert texts
    for _, stage, _, messages, notes in prompts:
        shown = json.loads(messages)[1]["content"]
        assert shown.startswith("Spell this word backward")
        students = json.loads(notes)["students"]
        assert 1 <= len(students) <= 4
        assert {student["peer"] for student in students} == {"alone"}
        assert all(f"Student {student['number']}:\n| " in shown for student in students)
        assert ("Critic 1:" in shown) == (stage == "resolve")


def test_each_stage_has_its_own_reward_terms(whole: Path) -> None:
    names = {
        stage: {
            tuple(name for name, *_ in json.loads(terms))
            for (terms,) in read(whole, f"SELECT terms FROM completions WHERE stage = '{stage}'")
        }
        for stage in STAGES
    }
    form = ("strict format", "soft format", "tags")
    assert names["answer"] == {("correct", *form)}
    assert names["critique"] == {("names a student", "right choice", *form)}
    assert names["resolve"] <= {(*some, "right majority", "question", "correct", *form) for some in ((), ("agrees",))}
    rewards = [e for e in events(whole, "rollouts") if e["stage"] == "answer"]
    assert all(event["points"] >= 2 * event["reward"] for event in rewards)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [3, 4, 5, 6, 7, 8, 9, 11])
def test_a_stop_between_any_two_stages_changes_nothing(whole: Path, tmp_path: Path, moment: int) -> None:
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(make(), tmp_path, stop=stop, emit=Interrupter(stop, moment))
    recorded = Events()
    progress = run(make(), tmp_path, emit=recorded)
    assert (progress.round, progress.step) == (ROUNDS, len(STAGES) * ROUNDS)
    assert same_weights(whole, tmp_path)
    assert content(tmp_path) == content(whole)


def content(root: Path) -> list[Any]:
    fields = "round, stage, question, idx, text, ids, outcome, terms"
    asked = "SELECT round, stage, position, question, messages FROM prompts ORDER BY round, stage, position"
    return [read(root, f"SELECT {fields} FROM completions ORDER BY round, stage, question, idx"), read(root, asked)]


def play(root: Path) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    log = EventLog(root / "events.jsonl")
    GRPORunner(make(), NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()


@pytest.mark.slow
def test_kill_9_within_rounds_leads_to_bit_equal_weights_and_texts(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "killed"
    # A stage writes about 550 bytes of events.
    killed_often(play, root, times=KILLS, chance=random.Random(0), growth=range(300, 2000), longest_s=0.05)
    assert {event["step"] for event in events(root, "step")} == set(range(len(STAGES) * ROUNDS))
    assert same_weights(whole, root)
    assert content(root) == content(whole)


def test_a_limit_that_leaves_a_stage_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="every prompt of the critique stage") as caught:
        run(make(generation={"max_prompt_tokens": 12}), tmp_path)
    assert "generation.max_prompt_tokens=" in str(caught.value.next)


@pytest.mark.slow
def test_a_later_stage_without_prompts_only_warns(tmp_path: Path) -> None:
    run(make(game={"rounds": 1}), tmp_path)
    recorded = Events()
    progress = run(make(game={"rounds": 2}, generation={"max_prompt_tokens": 12}), tmp_path, emit=recorded)
    assert (progress.round, progress.step) == (2, 2 * len(STAGES))
    assert {event["code"] for event in recorded.of("warning")} == {"long_prompts"}
    long = {stage.name for stage in study_group.STAGES if stage.quotes}
    played = [event["stage"] for event in recorded.of("rollouts")]
    assert "answer" in played
    assert not long & {*played}
    nothing_learned = {step["stage"] for step in recorded.of("step") if step["tokens"] == 0}
    assert long <= nothing_learned
    assert "answer" not in nothing_learned


@pytest.mark.slow
def test_a_node_can_change_its_game_between_runs_even_within_a_round(tmp_path: Path) -> None:
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(make(), tmp_path, stop=stop, emit=Interrupter(stop, 6))
    begun = read(tmp_path, "SELECT round, stage FROM turns ORDER BY step")
    assert begun[-1] != (begun[-1][0], "resolve")
    recorded = Events()
    progress = run(make_config(game={"rounds": ROUNDS}), tmp_path, emit=recorded)
    assert progress.round == ROUNDS
    assert {step["stage"] for step in recorded.of("step") if not step["replayed"]} == {"answer"}
