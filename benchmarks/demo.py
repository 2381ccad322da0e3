"""Measure what the demo learns: ``swarmctl run --profile demo`` for several seeds, compared with shuffled rewards.

Prints accuracy before and after (greedy, held-out questions), total time, peak memory of all processes together, and
how the time was spent. The control run gives each completion the reward of another one, so the node cannot learn from
rewards.

    python -m benchmarks.demo --seeds 5
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.changed_rewards import ChangedRewards
from hivemind_exp.config import Config
from hivemind_exp.events import EvalEvent, Event
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import Question, Score, Tasks

POLL_SECONDS = 0.05


def run_demo(seed: int, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Run the demo as a user would, and monitor its processes."""
    with tempfile.TemporaryDirectory() as home:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "swarmctl", "run", "--profile", "demo", "--seed", str(seed), "--json", "-q"]
        with subprocess.Popen(
            [*command, *extra], env={**os.environ, "SWARMCTL_HOME": home}, stdout=subprocess.PIPE, text=True
        ) as process:
            peak = 0
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                peak = max(peak, resident_bytes(watched))
                time.sleep(POLL_SECONDS)
            assert process.stdout is not None
            result: dict[str, Any] = json.loads(process.stdout.read())
        return {**result, "wall": time.perf_counter() - begun, "peak": peak}


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a process and its descendants, in bytes. Shared pages count once per process."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class Shuffled(ChangedRewards):
    """Each training completion gets the score of another one."""

    def __init__(self, tasks: Tasks, seed: int) -> None:
        super().__init__(tasks)
        self._chance = random.Random(seed)

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        scores = super().score(questions, completions)
        if questions[0].split == "train":
            self._chance.shuffle(scores)
        return scores


def run_control(settings: Mapping[str, Any], root: Path, order: int = 0) -> tuple[float, float]:
    """Run a node with shuffled rewards in this process. Return its accuracy before and after.

    ``order``: chooses how they are shuffled.
    """
    from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture

    config = Config.model_validate(settings)
    accuracies: list[float] = []

    def emit(event: Event, /) -> None:
        if isinstance(event, EvalEvent):
            accuracies.append(event.accuracy)

    def make_tasks(config: Config, files: NodeFiles) -> Shuffled:
        return Shuffled(make_mixture(config, files), config.node.seed + order)

    GRPORunner(config, NodeFiles(root), emit, make_tasks=make_tasks).run()
    return accuracies[0], accuracies[-1]


def demo_settings(seed: int) -> dict[str, Any]:
    """Return the demo's configuration, as the command line resolves it."""
    command = [sys.executable, "-m", "swarmctl", "profiles", "show", "demo", "--json"]
    settings: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["config"]
    settings["node"] |= {"seed": seed, "name": "control"}
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-control", action="store_true", help="skip the runs with shuffled rewards")
    options = parser.parse_args()
    print("seed  before  after   gain  shuffled gain  seconds  peak MiB  generate verify train other (s)")
    gains, controls, walls = [], [], []
    for seed in range(options.seeds):
        found = run_demo(seed)
        gain = found["accuracy_after"] - found["accuracy_before"]
        control = None
        if not options.no_control:
            with tempfile.TemporaryDirectory() as root:
                before, after = run_control(demo_settings(seed), Path(root))
            control = after - before
            controls.append(control)
        gains.append(gain)
        walls.append(found["wall"])
        seconds = found["seconds"]
        print(
            f"{seed:4d}  {found['accuracy_before']:6.3f}  {found['accuracy_after']:5.3f}  {gain:+.3f}  "
            f"{'-' if control is None else format(control, '+.3f'):>13}  {found['wall']:7.1f}  "
            f"{found['peak'] / 2**20:8.0f}  {seconds['generate']:8.1f} {seconds['verify']:6.1f} "
            f"{seconds['train']:5.1f} {seconds['other']:5.1f}",
            flush=True,
        )
    print(f"median gain {statistics.median(gains):+.3f} (lowest {min(gains):+.3f})")
    print(f"median time {statistics.median(walls):.0f} s")
    if controls:
        print(f"median gain with shuffled rewards {statistics.median(controls):+.3f} (highest {max(controls):+.3f})")


if __name__ == "__main__":
    main()
