"""A node that is stopped or killed at any moment still reaches the same weights."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.errors import CheckpointError
from hivemind_exp.event_log import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.trainer import checkpoints, hivemind_grpo_trainer
from tests.support.nodes import ChanceRewards, Events, make_config, run
from tests.support.restarts import Interrupter, killed_often, same_weights

KILLS = 10


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uninterrupted")
    assert run(make_config(), root).step == 6
    return root


@pytest.mark.slow
def test_steps_change_the_weights(uninterrupted: Path, tmp_path: Path) -> None:
    run(make_config(game={"rounds": 2}), tmp_path)
    assert not same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3, 4, 6, 8, 11, 13, 17])
def test_a_stop_at_any_moment_changes_nothing(uninterrupted: Path, tmp_path: Path, moment: int) -> None:
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(make_config(), tmp_path, stop=stop, emit=Interrupter(stop, moment))
    run(make_config(), tmp_path)
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_stop_during_a_slow_checkpoint_abandons_it(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, events, attempts = StopFlag(), Events(), []
    seal = checkpoints._seal

    def slow(directory: Path, about: dict[str, Any], check: Callable[[], None]) -> None:
        attempts.append(about["step"])
        if about["step"] == 2:
            stop.set()
            check()
            time.sleep(0.1)
        seal(directory, about, check)

    monkeypatch.setattr(checkpoints, "_seal", slow)
    monkeypatch.setattr(hivemind_grpo_trainer, "PARTING_SECONDS", 0.05)
    with pytest.raises(StopRequested):
        run(make_config(), tmp_path, stop=stop, emit=events)
    assert [step for step in attempts if step == 2] == [2]  # it does not try again
    assert not (tmp_path / "checkpoints" / "00000002").exists()
    monkeypatch.undo()
    run(make_config(), tmp_path)
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("taken", [True, False])
def test_a_node_killed_at_its_last_step_still_ends_with_a_checkpoint(
    taken: bool, uninterrupted: Path, tmp_path: Path
) -> None:
    run(make_config(), tmp_path)
    if not taken:
        with closing(sqlite3.connect(NodeFiles(tmp_path).journal)) as db, db:
            db.execute("DELETE FROM results WHERE step=5")
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        if checkpoint.name != "00000004":
            shutil.rmtree(checkpoint)
    events = Events()
    assert run(make_config(), tmp_path, emit=events).step == 6
    assert [step["step"] for step in events.of("step")] == [4, 5]
    (start,) = events.of("start")
    assert (start["resumed_round"], start["checkpoint_round"]) == (6 if taken else 5, 4)
    repeated = [phase for phase in events.of("phase") if phase["name"] == "repeating steps from the journal"]
    assert [(phase["done"], phase["total"]) for phase in repeated] == [(0, 2), (1, 2)]
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
def test_more_rounds_continue_from_the_end(uninterrupted: Path, tmp_path: Path) -> None:
    run(make_config(game={"rounds": 3}), tmp_path)
    run(make_config(), tmp_path)
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_time_not_weights(uninterrupted: Path, tmp_path: Path) -> None:
    run(make_config(game={"rounds": 5}), tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "trainer.pt").write_bytes(b"")
    events = Events()
    run(make_config(), tmp_path, emit=events)
    assert [warning["code"] for warning in events.of("warning")] == ["checkpoint_damaged"]
    assert [step["step"] for step in events.of("step") if step["replayed"]] == [4]
    assert same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_lost_journal_costs_rollouts_not_weights(uninterrupted: Path, tmp_path: Path) -> None:
    run(make_config(game={"rounds": 4}), tmp_path)
    (tmp_path / "journal.sqlite").unlink()
    events = Events()
    run(make_config(), tmp_path, emit=events)
    assert [warning["code"] for warning in events.of("warning")] == ["journal_lost"]
    assert same_weights(uninterrupted, tmp_path)
    again = Events()
    run(make_config(game={"rounds": 7}), tmp_path, emit=again)
    assert not again.of("warning")


@pytest.mark.slow
def test_a_node_without_any_intact_checkpoint_fails_instead_of_starting_over(tmp_path: Path) -> None:
    run(make_config(), tmp_path)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        (checkpoint / "trainer.pt").unlink()
    with pytest.raises(CheckpointError):
        run(make_config(game={"rounds": 8}), tmp_path)


@pytest.mark.slow
def test_a_node_resumes_without_its_deleted_rounds(uninterrupted: Path, tmp_path: Path) -> None:
    config = make_config(journal={"keep_rounds": 1})
    run(make_config(game={"rounds": 5}, journal={"keep_rounds": 1}), tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "trainer.pt").write_bytes(b"")
    events = Events()
    run(config, tmp_path, emit=events)
    assert [step["step"] for step in events.of("step") if step["replayed"]] == [4]
    assert same_weights(uninterrupted, tmp_path)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db:
        rounds = {round_ for (round_,) in db.execute("SELECT round FROM completions")}
    assert rounds == {5}  # the older of the two checkpoints is from before this round


@pytest.mark.slow
def test_evaluations_are_not_repeated_after_a_restart(tmp_path: Path) -> None:
    first, second = Events(), Events()
    run(make_config(game={"rounds": 4}), tmp_path, emit=first)
    run(make_config(), tmp_path, emit=second)
    assert [e["round"] for e in first.of("eval")] == [0, 4]
    assert [e["round"] for e in second.of("eval")] == [4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"lora": {"rank": 2, "dropout": 0.1}}, {"gradient_checkpointing": True}])
def test_adapters_and_checkpointed_activations_resume_bit_for_bit(tmp_path: Path, shape: dict[str, Any]) -> None:
    run(make_config(model=shape), tmp_path / "whole")
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(make_config(model=shape), tmp_path / "cut", stop=stop, emit=Interrupter(stop, 12))
    run(make_config(model=shape), tmp_path / "cut")
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def play(root: Path) -> None:
    """Run the node in a separate process."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    log = EventLog(root / "events.jsonl")
    GRPORunner(make_config(), NodeFiles(root), log, make_tasks=lambda *_: ChanceRewards()).run()


@pytest.mark.slow
def test_kill_9_at_many_moments_leads_to_bit_equal_weights(uninterrupted: Path, tmp_path: Path) -> None:
    """Kill one node again and again, each time a little later in its work."""
    root = tmp_path / "killed"
    events = root / "events.jsonl"
    # A node writes about 600 bytes of events before its first round, and 700 per round.
    killed_often(play, root, times=KILLS, chance=random.Random(0), growth=range(200, 2000), longest_s=0.03)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert {event["step"] for event in lines if event["event"] == "step"} == set(range(6))
    assert same_weights(uninterrupted, root)


@pytest.mark.slow
def test_a_copy_of_a_node_continues_like_the_original(uninterrupted: Path, tmp_path: Path) -> None:
    run(make_config(game={"rounds": 3}), tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    run(make_config(), tmp_path / "copy")
    assert same_weights(uninterrupted, tmp_path / "copy")
