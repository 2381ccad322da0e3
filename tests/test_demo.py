"""The demo learns, and it learns from the reward."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.demo import resident_bytes, run_control
from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import make_mixture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SEED = 1
LIMIT_BYTES = 2 * 2**30


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run ``swarmctl run --profile demo`` as a user would. Return its result, output, peak memory and directory."""
    home = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "swarmctl", "run", "--profile", "demo", "--seed", str(SEED), "--json"]
    environment = os.environ | {"SWARMCTL_HOME": str(home)}
    peak = 0
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        watched = psutil.Process(process.pid)
        while True:
            peak = max(peak, resident_bytes(watched))
            try:
                out, said = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                continue
    assert process.returncode == 0, said
    return {"result": json.loads(out), "said": said, "peak": peak, "root": home / "nodes" / "demo"}


def test_accuracy_rises_by_forty_points_or_more(demo: dict[str, Any]) -> None:
    result = demo["result"]
    assert 0.2 < result["accuracy_before"] < 0.55  # each node draws its own held-out questions
    assert result["accuracy_after"] - result["accuracy_before"] >= 0.4
    assert (result["rounds"], result["steps"], result["rollouts"]) == (80, 80, {"policy": 80 * 128})
    assert set(result["seconds"]) == {"generate", "verify", "train", "share", "other"}


def test_the_output_states_what_the_demo_shows(demo: dict[str, Any]) -> None:
    assert "taught no new skill" in demo["said"]


def test_the_demo_fits_in_two_gibibytes(demo: dict[str, Any]) -> None:
    assert 0 < demo["peak"] < LIMIT_BYTES


def test_the_events_agree_with_the_result(demo: dict[str, Any]) -> None:
    events = [json.loads(line) for line in (demo["root"] / "events.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["event"] == "start")
    assert start["parameters"] < 3_000_000
    evaluations = [event for event in events if event["event"] == "eval"]
    assert [event["round"] for event in evaluations] == [0, 20, 40, 60, 80]
    assert {event["questions"] for event in evaluations} == {200}
    assert evaluations[-1]["accuracy"] == demo["result"]["accuracy_after"]


def test_held_out_questions_are_never_trained_on(demo: dict[str, Any], tmp_path: Path) -> None:
    settings = json.loads((demo["root"] / "config.json").read_text())["config"]
    shutil.copy(NodeFiles(demo["root"]).secret_file, tmp_path)
    tasks = make_mixture(Config.model_validate(settings), NodeFiles(tmp_path))
    try:
        held = {question.key for question in tasks.questions("heldout", 0, 200)}
        trained = {q.key for round_ in range(80) for q in tasks.questions("train", round_, 16)}
        warmed = {question.key for question in tasks.questions("train", -1, 8192)}
    finally:
        tasks.close()
    assert len(held) == 200
    assert not held & (trained | warmed)


def test_nothing_is_learned_from_shuffled_rewards(demo: dict[str, Any], tmp_path: Path) -> None:
    """Uses the same warmed-up model and questions, and the same rewards in a different order.

    Half of the demo's rounds: by then, the demo has learned most of what it learns.
    """
    settings = json.loads((demo["root"] / "config.json").read_text())["config"]
    settings["game"]["rounds"], settings["eval"]["every"] = 40, 0
    gains = []
    for order in (0, 1):  # random updates can make one of the models better, or worse, by chance
        root = tmp_path / str(order)
        shutil.copytree(demo["root"] / "base", root / "base")
        shutil.copy(NodeFiles(demo["root"]).secret_file, root)
        before, after = run_control(settings, root, order)
        assert before == demo["result"]["accuracy_before"]
        gains.append(after - before)
    events = [json.loads(line) for line in (demo["root"] / "events.jsonl").read_text().splitlines()]
    (learned,) = (event["accuracy"] for event in events if event["event"] == "eval" and event["round"] == 40)
    assert statistics.fmean(gains) < 0.15 < learned - demo["result"]["accuracy_before"]
