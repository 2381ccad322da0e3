"""Node directories: created atomically, locked, tied to their fixed settings."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import DiskFull, NodeConflict, NodeError
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import StartEvent, discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.runner.run_recorder import RunRecorder
from swarmctl.nodes import directory as nodes
from swarmctl.nodes.directory import Node, opened
from swarmctl.nodes.lookup import files_of
from swarmctl.nodes.start_over import set_aside


def config(**changes: Any) -> Config:
    return Config.model_validate({"node": {"name": "x"}, **changes})


def retry(name: str) -> str:
    return f"swarmctl run --node {name}"


START = StartEvent(node="x", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4)


def begin(node: Node) -> None:
    """Record a start as the trainer does."""
    RunRecorder(node.files.run, discard)(START)


def begin_in_log(node: Node) -> None:
    """Write the files that a node left before ``run.json`` existed."""
    log = EventLog(node.files.events)
    log(START)
    log.close()


def train(node: Node) -> None:
    """Write the files that remain of such a node if its log is deleted."""
    journal = Journal(node.files.journal, "")
    journal.write_evaluation(Evaluation(round=0, accuracy=0.5, questions=2, by_task={}))
    journal.close()


def save(node: Node) -> None:
    (node.files.checkpoints / "00000002").mkdir(parents=True)


def test_a_node_directory_is_private_and_created_atomically(home: Path) -> None:
    with opened(config(), retry) as node:
        assert not node.resumes
        assert stat.S_IMODE(node.files.root.stat().st_mode) == 0o700
        made = json.loads(node.files.identity.read_text())
    assert made["model"] == {"name": "Qwen/Qwen2.5-0.5B-Instruct", "revision": None}
    assert made["adapter"] is None
    assert made["created"].endswith("Z")
    assert len(made["charter"]) == 64
    assert [path.name for path in (home / "nodes").iterdir()] == ["x"]


def test_nothing_is_left_of_a_node_that_cannot_be_created(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nodes, "write_json", full)
    with pytest.raises(DiskFull, match="No space left") as caught, opened(config(), retry):
        pass
    assert (caught.value.next or "").startswith("df -h ")
    assert list((home / "nodes").iterdir()) == []


def test_a_directory_that_cannot_be_written_is_explained(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the directory should be")
    with pytest.raises(NodeError, match="is not a directory, but one is needed there"), opened(config(), retry):
        pass


@pytest.mark.slow
def test_a_running_node_is_not_started_twice() -> None:
    with opened(config(), retry) as node:
        code = (
            "import sys; from tests.swarmctl.nodes.test_directory import *\n"
            "try:\n  opened(config(), retry).__enter__()\n"
            "except NodeConflict as error: print(error.message, '|', error.next)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        with pytest.raises(NodeConflict):
            nodes.check_free(node.files, retry)
    assert f"node x is already running (pid {os.getpid()}, since 20" in done.stdout
    assert done.stdout.strip().endswith("| swarmctl status x")
    with opened(config(), retry):
        pass
    nodes.check_free(files_of("x"), retry)


def test_a_node_whose_supervisor_has_just_ended_will_be_free_shortly() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with opened(config(), retry) as node:
        node.files.lock.write_text(json.dumps({"pid": ended.pid, "trainer": os.getpid()}))
        with pytest.raises(NodeConflict, match=f"trainer, pid {os.getpid()}, will stop shortly") as caught:
            nodes.check_free(node.files, retry)
    assert caught.value.next == "swarmctl run --node x"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"name": "other"}}, "model Qwen/Qwen2.5-0.5B-Instruct, now other"),
        ({"model": {"revision": "v2"}}, "now Qwen/Qwen2.5-0.5B-Instruct at v2"),
        ({"model": {"lora": {"rank": 8}}}, "LoRA adapter none, now rank=8 alpha=32"),
        ({"tasks": ["gsm8k"]}, "tasks sapo weight=1.0 check=exact, now gsm8k"),
        ({"node": {"name": "x", "seed": 3}}, "seed 0, now 3"),
    ],
)
def test_a_node_is_never_used_with_other_fixed_settings(changes: dict[str, Any], told: str) -> None:
    with opened(config(), retry) as node:
        begin(node)
    before = {path: path.read_bytes() for path in node.files.root.iterdir() if path != node.files.lock}
    with pytest.raises(NodeConflict) as caught, opened(config(**changes), retry):
        pass
    assert told in caught.value.message
    assert caught.value.next == "swarmctl run --node x-2"
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("value", [None, "x", ["x"], [{}], 5])
def test_a_node_with_a_damaged_identity_is_refused(value: object) -> None:
    with opened(config(), retry) as node:
        begin(node)
    files = node.files
    files.identity.write_text(json.dumps(json.loads(files.identity.read_bytes()) | {"tasks": value}))
    with pytest.raises(NodeConflict, match=r"node\.json is damaged|other settings"), opened(config(), retry):
        pass


@pytest.mark.parametrize("trace", [begin, begin_in_log, train, save])
def test_any_trace_of_training_fixes_the_model_and_the_tasks(trace: Callable[[Node], None]) -> None:
    with opened(config(), retry) as node:
        trace(node)
    with pytest.raises(NodeConflict, match="now other"), opened(config(model={"name": "other"}), retry):
        pass


def test_other_settings_may_change() -> None:
    with opened(config(model={"lora": {}}), retry) as node:
        begin(node)
    other = config(model={"lora": {"dropout": 0.1}, "device": "cpu"}, train={"learning_rate": 1e-3})
    with opened(other, retry) as node:
        assert node.resumes


def test_fixed_settings_may_change_before_the_first_start() -> None:
    with opened(config(model={"name": "mispelt"}), retry):
        pass
    with opened(config(), retry) as node:
        assert json.loads(node.files.identity.read_text())["model"]["name"].startswith("Qwen")


def test_only_a_node_that_starts_over_is_emptied() -> None:
    with opened(config(), retry) as node:
        assert not node.starts_over
        begin(node)
        secret = node.files.secret()
        (node.files.checkpoints / "1").mkdir(parents=True)
        outside = node.files.root.parent / "kept"
        outside.mkdir()
        (node.files.root / "link").symlink_to(outside)
    with opened(config(tasks=["gsm8k"], node={"name": "x", "fresh": True}), retry) as node:
        assert not node.resumes
        assert node.starts_over
        assert {path.name for path in node.files.root.iterdir()} == {"lock", "node.json", "secret", ".previous"}
        assert node.files.secret() == secret  # the held-out questions stay the same
        assert json.loads(node.files.identity.read_text())["tasks"][0]["name"] == "gsm8k"
        begin(node)
    assert {path.name for path in node.files.root.iterdir()} == {"lock", "node.json", "secret", "run.json"}
    assert outside.is_dir()
    with opened(config(tasks=["gsm8k"]), retry) as node:
        assert node.resumes


def test_a_run_killed_while_it_started_over_costs_nothing() -> None:
    with opened(config(), retry) as node:
        begin(node)
        save(node)
    set_aside(node.files)  # and then kill -9
    assert not node.files.checkpoints.exists()
    with pytest.raises(NodeConflict, match="now gsm8k"), opened(config(tasks=["gsm8k"]), retry):
        pass
    with opened(config(), retry) as node:
        assert node.resumes
        assert (node.files.checkpoints / "00000002").is_dir()


def test_a_node_that_always_started_over_does_so_once_more() -> None:
    """The first version fixed this when it created the node, and made no secret for it."""
    with opened(config(), retry) as node:
        begin(node)
    node.files.identity.write_text(json.dumps(json.loads(node.files.identity.read_bytes()) | {"fresh": True}))
    with opened(config(tasks=["gsm8k"]), retry) as node:
        assert node.starts_over
        begin(node)
    with opened(config(tasks=["gsm8k"]), retry) as node:
        assert node.resumes


def test_a_directory_that_is_not_a_node_is_not_touched(home: Path) -> None:
    root = home / "nodes" / "x"
    root.mkdir(parents=True)
    (root / "diary.txt").write_text("mine")
    with pytest.raises(NodeConflict, match="is not a node"), opened(config(), retry):
        pass
    assert [path.name for path in root.iterdir()] == ["diary.txt"]
