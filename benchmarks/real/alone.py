"""Measure what a real model learns on its own, beside plain TRL with the same reward and budget.

For each task and seed, a new node trains with ``swarmctl run``, then TRL's ``GRPOTrainer`` trains the same model on the
same questions for as many steps of as many completions, asked in the way that the node found. Both are evaluated with
greedy decoding on the node's held-out questions. Prints accuracy before and after with 95 % intervals, seconds of
training without loading and evaluating, and points of accuracy per minute with their ratio.

    python -m benchmarks.real.alone --tasks sum largest --seeds 3
    python -m benchmarks.real.alone --tasks chain_sum gcd --seeds 3 --set train.learning_rate=3e-6 --without-trl
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real import tasks
from hivemind_exp.intervals import wilson
from hivemind_exp.node_files import NodeFiles

NODE = "measured"


@dataclass(frozen=True)
class Run:
    """One training run."""

    task: str
    seed: int
    before: float
    """Share of held-out questions answered correctly."""
    after: float
    questions: int
    seconds: float
    """Spent in training rounds: generation, verification, optimizer steps."""
    curve: tuple[float, ...]
    """Share of correct completions while training, by sixths of the run."""

    @property
    def points_a_minute(self) -> float:
        return 100 * (self.after - self.before) / (self.seconds / 60)


def run_node(task: str, seed: int, options: argparse.Namespace, home: Path) -> Run:
    """Train a node as a user would. Returns its run. Raises ``CalledProcessError`` if it fails."""
    command = [sys.executable, "-m", "swarmctl", "run", "--profile", options.profile, "--node", NODE, "--json", "-q"]
    command += ["--yes", "--seed", str(seed), "--rounds", str(options.rounds)]
    table = tasks.table(task, home)
    if table is not None:
        command += ["--set", f"tasks=[{_toml(table)}]"]
    for change in [f"model.name={options.model}", *options.set]:
        command += ["--set", change]
    environment = {**os.environ, "SWARMCTL_HOME": str(home)}
    with (home / "log").open("w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    return read_run(task, seed, home)


def read_run(task: str, seed: int, home: Path) -> Run:
    """Return a node's run from its events."""
    events = [json.loads(line) for line in NodeFiles(home / "nodes" / NODE).events.read_text().splitlines()]
    evaluations = [event for event in events if event["event"] == "eval"]
    rounds = [event for event in events if event["event"] == "round"]
    right = [(event["correct"], event["count"]) for event in events if event["event"] == "rollouts"]
    sixth = max(1, len(right) // 6)
    curve = [right[start : start + sixth] for start in range(0, len(right), sixth)]
    return Run(
        task,
        seed,
        evaluations[0]["accuracy"],
        evaluations[-1]["accuracy"],
        evaluations[0]["questions"],
        sum(sum(event["seconds"].values()) for event in rounds),
        tuple(sum(c for c, _ in part) / sum(n for _, n in part) for part in curve),
    )


def run_trl(task: str, seed: int, home: Path) -> Run:
    """Train with plain TRL in a process of its own, after the node in ``home``. Raises ``CalledProcessError``."""
    command = [sys.executable, "-m", "benchmarks.real.plain_trl", str(home / "nodes" / NODE), "--seed", str(seed)]
    with (home / "trl.log").open("w") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=True)
    return Run(task, seed, **json.loads(done.stdout.splitlines()[-1]))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def show(name: str, run: Run) -> None:
    """Print one run on one line."""
    low, high = wilson(run.after, run.questions)
    curve = " ".join(f"{share:.2f}" for share in run.curve)
    print(
        f"{run.task:20} seed {run.seed} {name:9} {run.before:.2f} -> {run.after:.2f} ({low:.2f} to {high:.2f}) "
        f"{run.seconds:6.1f} s {run.points_a_minute:6.1f} points/min   {curve}",
        flush=True,
    )


def compare(task: str, seed: int, options: argparse.Namespace) -> tuple[Run, Run | None]:
    """Run a node and, unless told otherwise, TRL."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        home = Path(folder)
        try:
            node = run_node(task, seed, options, home)
            show("swarmctl", node)
            if options.events is not None:
                options.events.mkdir(parents=True, exist_ok=True)
                shutil.copy(NodeFiles(home / "nodes" / NODE).events, options.events / f"{task}-{seed}.jsonl")
            plain = None if options.without_trl else run_trl(task, seed, home)
        except subprocess.CalledProcessError:
            for log in sorted(home.glob("*log")):
                print(f"{task} seed {seed}: {log.name} ends with\n{log.read_text()[-1500:]}", flush=True)
            raise
        if plain is not None:
            show("plain TRL", plain)
        return node, plain


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tasks.NAMES, default=["sum", "largest"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the node")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; more than one makes times useless")
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--events", type=Path, help="directory for the nodes' event logs")
    parser.add_argument("--directory", type=Path, help="where to put the nodes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    jobs = [
        (task, seed) for task in options.tasks for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(lambda job: compare(*job, options), jobs))
    for task in options.tasks:
        pairs = [(node, plain) for node, plain in results if node.task == task]
        gains = [100 * (node.after - node.before) for node, _ in pairs]
        line = f"{task:20} {statistics.mean(gains):+.0f} points ({min(gains):+.0f} to {max(gains):+.0f})"
        ratios = [
            node.points_a_minute / plain.points_a_minute
            for node, plain in pairs
            if plain and plain.after > plain.before
        ]
        if ratios:
            line += f"; points a minute, swarmctl / plain TRL: {statistics.median(ratios):.2f}"
            line += f" ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


if __name__ == "__main__":
    main()
