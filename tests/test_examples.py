"""Run each example as its README says, on the tiny model, with fewer rounds and a shorter warm-up."""

from __future__ import annotations

import json
import os
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import resolve
from tests.support.command_line import ROOT, run_process
from tests.support.fake_api.ask import Messages
from tests.support.fake_api.server import api_server
from tests.support.fake_api.transformers_server import TransformersServer
from tests.support.forked_swarmctl import swarmctl
from tests.support.forking import command_for_scripts
from tests.support.nodes import Events, make_config

EXAMPLES = ROOT / "examples"
SHORTER = {"GAME__ROUNDS": "2", "WARMUP__STEPS": "4", "EVAL__QUESTIONS": "8", "EVAL__EVERY": "0"}
PATIENCE = 280
"""Seconds after which a process counts as hanging; not a test of speed."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWARMCTL_HOME", str(tmp_path))
    for name, value in SHORTER.items():
        monkeypatch.setenv(f"SWARMCTL_{name}", value)
    return tmp_path


def run(*arguments: str) -> dict[str, Any]:
    done = swarmctl("run", *arguments, "--json", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_example_has_a_profile_and_a_readme_and_is_run_here() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir()) == [
        "offload-to-your-server",
        "own-task",
        "three-nodes",
        "train-alone",
    ]
    for example in EXAMPLES.iterdir():
        assert (example / "profile.toml").is_file()
        assert f"examples/{example.name}/profile.toml" in (example / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_train_alone(home: Path) -> None:
    result = run("--profile", str(EXAMPLES / "train-alone/profile.toml"), "--node", "alone")
    assert (result["rounds"], result["rollouts"]) == (2, {"policy": 2 * 64})


@pytest.mark.slow
def test_own_task(home: Path) -> None:
    profile = profiles.read(EXAMPLES / "own-task/profile.toml")
    config = resolve(profile, [], {}).config
    longer = {"max_prompt_tokens": 512, "max_completion_tokens": 8, "batch": 8}
    small = make_config(game={"rounds": 1, "groups": 2, "group_size": 2}, eval={"questions": 2}, generation=longer)
    config = small.model_copy(update={"tasks": config.tasks})
    (home / "node").mkdir()
    events = Events()
    assert GRPORunner(config, NodeFiles(home / "node"), events).run().round == 1
    (rollouts,) = events.of("rollouts")
    assert rollouts["count"] == 4


def test_the_own_task_s_reward() -> None:
    task = runpy.run_path(str(EXAMPLES / "own-task/sentences.py"))
    question = next(task["questions"](7))
    assert question == next(task["questions"](7))
    good = " ".join([question["word"], *["and"] * (question["length"] - 1)])
    assert task["score"](good, question) == {"correct": 1.0, "word": 0.1, "length": 0.2}
    assert task["score"](f"{good} more", question)["correct"] == 0.0


@pytest.mark.slow
def test_offload_to_your_server(home: Path, real_server: TransformersServer) -> None:
    text = (EXAMPLES / "offload-to-your-server/profile.toml").read_text(encoding="utf-8")
    mine = text.replace("http://127.0.0.1:8000/v1", real_server.base_url).replace("YOUR-MODEL", real_server.model)
    assert mine != text
    (home / "mine.toml").write_text(mine, encoding="utf-8")
    # This server's model writes at random, and would write more than the node can learn.
    short = ("--set", "offload.max_tokens=16")
    result = run("--profile", str(home / "mine.toml"), "--node", "offloaded", *short)
    assert result["rounds"] == 2
    assert result["rollouts"] == {"policy": 2 * 64, "teacher": 2 * 64}


@pytest.mark.usefixtures("home")
def test_the_example_s_placeholder_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    profile = str(EXAMPLES / "offload-to-your-server/profile.toml")
    assert cli.run(["doctor", "api", "--profile", profile]) == Exit.CHECK_FAILED
    shown = " ".join(capsys.readouterr().out.split())
    assert "failed settings: the model of mybox is still the placeholder YOUR-MODEL; name one that mybox has" in shown
    assert cli.run(["run", "--profile", profile, "--dry-run"]) == Exit.CONFIGURATION


def spelled(messages: Messages, _index: int) -> str:
    word = messages[-1]["content"].split()[-1]
    return f"<think>\nThe letters of {word}, from the last to the first.\n</think>\n<answer>{word[::-1]}</answer>"


@pytest.mark.slow
def test_a_server_that_reasons_is_learned_from(home: Path) -> None:
    profile = (EXAMPLES / "offload-to-your-server/profile.toml").read_text(encoding="utf-8")
    with api_server(answer=spelled) as server:
        profile = profile.replace("http://127.0.0.1:8000/v1", server.base_url).replace("YOUR-MODEL", "test-model")
        (home / "mine.toml").write_text(profile, encoding="utf-8")
        run("--profile", str(home / "mine.toml"), "--node", "offloaded")
    lines = NodeFiles(home / "nodes/offloaded").events.read_text(encoding="utf-8").splitlines()
    steps = [event for line in lines if (event := json.loads(line))["event"] == "step"]
    assert {event["round"] for event in steps if event["source"] == "teacher" and event["rows"]} == {0, 1}
    made = [event for line in lines if (event := json.loads(line))["event"] == "rollouts"]
    assert sum(event["count"] for event in made if event["source"] == "teacher") == 2 * 64


def test_the_first_of_three_nodes_does_not_finish_before_the_others_start() -> None:
    profile = tomllib.loads((EXAMPLES / "three-nodes/profile.toml").read_text(encoding="utf-8"))
    assert profile["game"]["rounds"] == 0


@pytest.mark.slow
@pytest.mark.swarm
def test_three_nodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMCTL_WARMUP__STEPS", "40")  # so that a node has rewards to share
    with command_for_scripts() as command:
        environment = os.environ | {"SWARMCTL": command, "ROUNDS": "2"}
        done = run_process(["sh", str(EXAMPLES / "three-nodes/run.sh")], timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    shared = {}
    for name in ("trio", "second", "third"):
        lines = NodeFiles(home / "nodes" / name).events.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        assert [event["round"] for event in events if event["event"] == "round"] == [0, 1]
        shared[name] = sum(event["groups"] for event in events if event["event"] == "share")
    assert all(shared.values()), shared
