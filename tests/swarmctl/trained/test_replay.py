"""``swarmctl replay``: which steps can be repeated, and what is said about the result."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.events import discard
from hivemind_exp.journal.audit import StepOutcome
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl import cli
from swarmctl.errors import Exit
from tests.swarmctl.trained.conftest import make_node

MACHINE = {
    "device": "cpu",
    "accelerator": None,
    "dtype": "float32",
    "threads": 1,
    "torch": "2.13.0",
    "processor": "x86_64 AVX512",
}


def step(number: int, **changes: Any) -> dict[str, Any]:
    source = {"kind": "policy", "source": "local", "completions": 3, "tokens": 12}
    event = {
        "event": "step",
        "step": number,
        "round": number,
        "stage": "answer",
        "loss": 0.125,
        "grad_norm": 1.5,
        "rows": 4,
        "sources": [source, source | {"kind": "teacher", "source": "openai:gpt", "completions": 1}],
        "recorded": {"loss": 0.125, "grad_norm": 1.5},
        "exact": True,
        "tolerance": 0.0,
        "same": True,
        "machine": MACHINE,
        "recorded_machine": MACHINE,
    }
    return event | changes


@pytest.fixture
def node(home: Path) -> Path:
    """A node that has taken nine steps and keeps the checkpoints 4 and 6, and the rows since the first of them."""
    root = make_node(home, checkpoint=False)
    store = CheckpointStore(root / "checkpoints", 2, discard)
    for number in (4, 6):
        store.save(number, number, lambda directory: (directory / "model").mkdir())
    with closing(Journal(root / "journal.sqlite", "swarm")) as journal:
        for number in range(9):
            journal.commit(Manifest(number, number, 0, 1, ()))
            journal.write_result(number, StepOutcome(0.0, 1.0, "{}"))
        journal.forget_manifests(4)
    return root


def test_the_nearest_checkpoint_before_the_step_is_used(
    node: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    started = scripted("replay", [step(4), step(5)])
    assert cli.run(["replay", "small", "--step", "6"]) == Exit.DONE
    assert (started["node"].checkpoint.step, started["step"], started["whole"]) == (4, 5, True)
    assert capsys.readouterr().out.splitlines() == [
        "step 5 (round 5, answer): same bits as recorded",
        "step 6 (round 6, answer): same bits as recorded",
        "  loss           0.125",
        "  gradient norm  1.5",
        "  learned from   3 completions of this machine, 1 completion of openai:gpt",
        "  repeated from  checkpoint 4, on x86_64 AVX512, 1 thread, float32, torch 2.13.0",
        "Step 6 of node small gives the recorded result, to the last bit.",
    ]


def test_the_newest_step_is_the_default(node: Path, scripted: Callable[..., dict[str, Any]]) -> None:
    started = scripted("replay", [step(8)])
    assert cli.run(["replay", "small"]) == Exit.DONE
    assert (started["node"].checkpoint.step, started["step"]) == (6, 8)


def test_if_the_newest_step_has_no_rows_here_the_newest_that_has_is_repeated(
    node: Path, scripted: Callable[..., dict[str, Any]]
) -> None:
    with sqlite3.connect(node / "journal.sqlite") as db:
        db.execute("DELETE FROM manifests WHERE step>6")
    started = scripted("replay", [step(6)])
    assert cli.run(["replay", "small"]) == Exit.DONE
    assert (started["node"].checkpoint.step, started["step"]) == (6, 6)


def test_a_step_that_was_not_finished_is_repeated_only_by_request(
    node: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Journal(node / "journal.sqlite", "swarm")) as journal:
        journal.commit(Manifest(9, 9, 0, 1, ()))
    assert scripted("replay", [step(8)]) is not None
    assert cli.run(["replay", "small"]) == Exit.DONE
    assert "Step 9 of node small gives the recorded result" in capsys.readouterr().out
    scripted("replay", [step(9, same=None, recorded=None, recorded_machine=None)])
    assert cli.run(["replay", "small", "--step", "10"]) == Exit.DONE
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Step 10 of node small has no recorded result: the node was stopped before it finished."
    )


def test_no_replay_leads_across_a_restoration(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(node / "journal.sqlite") as db:
        db.execute("INSERT INTO restorations VALUES (8, 8, 4, '{}')")
    message, following = error_of(capsys, "--step", "9")
    assert message.endswith("Steps that can be replayed: 5 to 8")
    assert following.endswith("--step 8")


def test_json_has_every_step(
    node: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    scripted("replay", [step(6), step(7, loss=float("nan"), same=False)])
    assert cli.run(["replay", "small", "--step", "8", "--json"]) == Exit.CHECK_FAILED
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {key: found[key] for key in found if key != "steps"} == {
        "schema": 1,
        "node": "small",
        "step": 8,
        "checkpoint": {"step": 6, "round": 6},
        "same": False,
    }
    steps = found["steps"]
    assert [(each["step"], each["loss"], each["same"]) for each in steps] == [
        (7, 0.125, True),
        (8, None, False),
    ]


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        (
            {"exact": False, "tolerance": 0.001},
            ["Step 7 of node small gives the recorded result, within 0.1 % of the gradient norm."],
        ),
        (
            {"same": None, "recorded": None, "recorded_machine": None},
            ["Step 7 of node small has no recorded result: an earlier version of swarmctl took it."],
        ),
        (
            {"same": False, "recorded": {"loss": 0.5, "grad_norm": 1.5}},
            [
                "Step 7 of node small does not give the recorded result.",
                "Machine and settings are the same, so the model's files, or those of its base model, have changed.",
            ],
        ),
        (
            {"same": False, "recorded_machine": MACHINE | {"accelerator": "H200", "device": "cuda"}},
            [
                "Step 7 of node small does not give the recorded result.",
                "It was recorded on H200, float32, torch 2.13.0.",
            ],
        ),
    ],
)
def test_what_is_said_about_the_result(
    changes: dict[str, Any],
    last: list[str],
    node: Path,
    scripted: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted("replay", [step(6, **changes)])
    code = Exit.CHECK_FAILED if changes.get("same") is False else Exit.DONE
    assert cli.run(["replay", "small", "--step", "7"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-len(last) :] == last
    assert ("    recorded     0.5" in lines) == (changes.get("recorded") == {"loss": 0.5, "grad_norm": 1.5})


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert cli.run(["replay", "small", *arguments, "--json"]) == Exit.CONFIGURATION
    error = json.loads(capsys.readouterr().out)["error"]
    return error["message"], error["next"]


def test_a_deleted_step_names_the_steps_that_can_be_replayed(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, following = error_of(capsys, "--step", "3")
    assert message == (
        "step 3 of node small cannot be replayed: its rows, or the checkpoint before it, have been deleted. "
        "Steps that can be replayed: 5 to 9"
    )
    assert following.endswith("swarmctl replay small --step 5")


def test_if_no_step_can_be_replayed_more_training_is_suggested(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(node / "journal.sqlite") as db:
        db.execute("DELETE FROM manifests")
    message, following = error_of(capsys)
    assert message.endswith("No step can be replayed until the node has taken another one")
    assert following.endswith("swarmctl run --node small")


def test_a_step_with_damaged_rows_is_named(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(node / "journal.sqlite") as db:
        db.execute("UPDATE digests SET sha256='0' WHERE step=7")
    message, following = error_of(capsys, "--step", "9")
    assert "step 8 cannot be read" in message
    assert message.endswith("its rows have changed since they were written. Steps that can be replayed: 5 to 7")
    assert following.endswith("swarmctl replay small --step 7")


def test_a_damaged_checkpoint_leads_to_an_earlier_one(
    node: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (node / "checkpoints" / "00000006" / "checkpoint.json").unlink()
    started = scripted("replay", [step(8)])
    assert cli.run(["replay", "small"]) == Exit.DONE
    assert started["node"].checkpoint.step == 4
    assert "warning: checkpoint 6 is damaged (checkpoint.json is missing); trying" in capsys.readouterr().err


def test_a_step_that_was_not_taken_yet(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, following = error_of(capsys, "--step", "10")
    assert message == "node small has taken 9 steps so far; they are numbered from 1 to 9"
    assert following.endswith("--step 9")


def test_steps_count_from_1_as_rounds_and_checkpoints_do(
    node: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    started = scripted("replay", [step(8)])
    assert cli.run(["replay", "small", "--step", "9"]) == Exit.DONE  # the last of nine
    assert started["step"] == 8
    assert "step 9 (round 9, answer): same" in capsys.readouterr().out
    assert cli.run(["replay", "small", "--step", "0"]) == Exit.USAGE


def test_a_node_without_steps(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_node(home, checkpoint=False)
    assert error_of(capsys)[0] == "node small has taken no step yet"


def test_before_the_first_checkpoint_the_start_is_the_model_before_training(
    home: Path, scripted: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_node(home, checkpoint=False)
    with closing(Journal(root / "journal.sqlite", "swarm")) as journal:
        journal.commit(Manifest(0, 0, 0, 1, ()))
    started = scripted("replay", [step(0)])
    assert cli.run(["replay", "small"]) == Exit.DONE
    assert started["node"].checkpoint is None
    assert "repeated from  the model before training" in capsys.readouterr().out
