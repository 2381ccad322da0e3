"""A repeated step gives the recorded result, under the settings with which it was taken."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import CheckpointError
from hivemind_exp.journal.audit import StepLog, StepOutcome
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.trained.loading import Job
from hivemind_exp.trained.replaying import compare, replay
from hivemind_exp.trainer.checkpoints import find
from hivemind_exp.trainer.conditions import Conditions
from hivemind_exp.trainer.step_measures import StepResult
from tests.hivemind_exp.trained.conftest import Trained, contents
from tests.support.links import RecordedLink
from tests.support.nodes import make_config, run
from tests.support.recorded_events import Events
from tests.support.two_turn_game import TwoTurnGame, save_player

CPU = Conditions({}, "cpu", None, "float32", 1, "2.13.0", "x86_64 AVX512")
TWO = replace(CPU, settings={"train": {"processes": 2}})
RESULT = StepResult(0.25, 2.0, 1e-5, 10, 2)


def steps(link: RecordedLink) -> list[dict[str, Any]]:
    return link.of("step")


@pytest.mark.slow
def test_a_step_from_a_checkpoint_has_the_same_bits(either: Trained) -> None:
    before, link = contents(either.files.checkpoints), RecordedLink()
    first = find(either.files.checkpoints, 1)
    replay(Job(either.config, either.files, first, {"step": 1}, link))
    (step,) = steps(link)
    assert (step["step"], step["same"], step["exact"], step["tolerance"]) == (1, True, True, 0.0)
    assert step["recorded"] == {"loss": step["loss"], "grad_norm": step["grad_norm"]}
    assert step["grad_norm"] > 0
    assert step["sources"][0]["source"] == "local"
    assert contents(either.files.checkpoints) == before


@pytest.mark.slow
def test_other_weights_give_another_result(full: Trained) -> None:
    other = find(full.files.checkpoints, 2)  # the weights of another step, under the name of the right one
    assert other is not None
    link = RecordedLink()
    replay(Job(full.config, full.files, replace(other, step=1), {"step": 1}, link))
    assert steps(link)[0]["same"] is False


@pytest.mark.slow
def test_steps_of_runs_with_other_settings_are_repeated_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "forget_manifests", lambda *_: None)
    first = make_config(game={"rounds": 2}, train={"learning_rate": 0.05, "warmup_steps": 0}, eval={"every": 0})
    run(first, tmp_path)
    second = make_config(game={"rounds": 4}, train={"learning_rate": 0.01, "warmup_steps": 0}, eval={"every": 0})
    run(second, tmp_path)
    link = RecordedLink()
    replay(Job(second, NodeFiles(tmp_path), None, {"step": 3}, link))
    assert [(each["step"], each["same"], each["exact"]) for each in steps(link)] == [(n, True, True) for n in range(4)]


@pytest.fixture(scope="module")
def conversing(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A node whose model has had conversations with an environment for three rounds."""
    root, player = tmp_path_factory.mktemp("node"), save_player(tmp_path_factory.mktemp("player"))
    config = make_config(
        model={"name": str(player)},
        game={"rounds": 3, "groups": 4, "group_size": 8},
        train={"learning_rate": 0.01, "warmup_steps": 0, "micro_batch": 5},
        checkpoint={"every": 1, "keep": 3},
        eval={"every": 0, "questions": 2},
    )
    files = NodeFiles(root)
    GRPORunner(config, files, Events(), make_tasks=lambda *_: TwoTurnGame()).run()
    return Trained(config, files)


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 2])
def test_a_step_that_learned_from_conversations_has_the_same_bits(conversing: Trained, start: int) -> None:
    link, checkpoint = RecordedLink(), find(conversing.files.checkpoints, start)
    replay(Job(conversing.config, conversing.files, checkpoint, {"step": 2}, link))
    found = steps(link)
    assert [(each["step"], each["same"], each["exact"]) for each in found] == [(n, True, True) for n in range(start, 3)]
    for each in found:
        assert each["recorded"] == {"loss": each["loss"], "grad_norm": each["grad_norm"]}
        assert each["grad_norm"] > 0
        assert each["sources"][0]["source"] == "local"
    with closing(StepLog(conversing.files.journal)) as log:
        rows = log.manifest(2).rows
    assert all(row.heard for row in rows)  # what the environment said
    assert found[-1]["sources"][0]["tokens"] == sum(row.sampled for row in rows if row.advantage)


@pytest.mark.slow
def test_a_repeated_conversation_whose_turns_are_forgotten_is_noticed(
    conversing: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StepLog.manifest

    def careless(log: StepLog, step: int) -> Manifest:
        found = whole(log, step)
        return replace(found, rows=tuple(replace(row, heard=()) for row in found.rows))

    monkeypatch.setattr(StepLog, "manifest", careless)
    link = RecordedLink()
    replay(Job(conversing.config, conversing.files, find(conversing.files.checkpoints, 2), {"step": 2}, link))
    assert steps(link)[0]["same"] is False


@pytest.mark.slow
def test_rows_that_a_running_node_has_just_deleted_are_an_error(full: Trained) -> None:
    with pytest.raises(CheckpointError, match="has just deleted the rows of step 1"):
        replay(Job(full.config, full.files, None, {"step": 1}, RecordedLink()))


@pytest.mark.parametrize(
    ("recorded", "now", "exact", "same"),
    [
        (StepOutcome(0.25, 2.0, CPU.text()), CPU, True, True),
        (StepOutcome(0.25, 2.0000001, CPU.text()), CPU, True, False),
        (StepOutcome(0.25, 2.0000001, CPU.text()), replace(CPU, threads=2), False, True),
        (StepOutcome(0.25, 2.0000001, TWO.text()), CPU, False, True),
        (StepOutcome(0.2502, 2.0, CPU.text()), replace(CPU, torch="2.14.0"), False, True),
        (StepOutcome(0.26, 2.0, CPU.text()), replace(CPU, torch="2.14.0"), False, False),
        (StepOutcome(0.25, 2.0, replace(CPU, device="cuda").text()), replace(CPU, device="cuda"), False, True),
        (StepOutcome(0.25, 2.0, '{"from": "another version"}'), CPU, False, True),
        (StepOutcome(float("nan"), 2.0, CPU.text()), replace(CPU, threads=2), False, False),
    ],
)
def test_bits_count_only_under_the_same_conditions(
    recorded: StepOutcome, now: Conditions, exact: bool, same: bool
) -> None:
    found = compare(RESULT, recorded, now)
    assert (found.exact, found.same, found.tolerance == 0) == (exact, same, exact)


def test_without_a_recorded_result_nothing_is_claimed() -> None:
    assert compare(RESULT, None, CPU).same is None


def test_the_conditions_of_a_real_step_are_those_of_its_settings(full: Trained) -> None:
    with sqlite3.connect(full.files.journal) as db:
        (body,) = db.execute("SELECT DISTINCT body FROM conditions").fetchone()
    assert json.loads(body)["settings"]["train"]["learning_rate"] == 0.05
    found = Conditions.parse(body)
    assert found is not None
    assert found.apply(make_config()).train == full.config.train
