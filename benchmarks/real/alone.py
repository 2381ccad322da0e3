"""Measure what a real model learns on its own, beside plain TRL with the same reward and budget.

For each task and seed, a new node trains with ``swarmctl run``, then TRL's ``GRPOTrainer`` trains the same model on the
same questions for as many steps of as many completions, asked in the way that the node found. Both are evaluated with
greedy decoding on the node's held-out questions. Prints accuracy before and after with 95 % intervals, seconds of
training without loading and evaluating, points of accuracy per minute with their ratio, and the first evaluation that
was 40 points above the first one.

    python -m benchmarks.real.alone --tasks sum largest --seeds 3
    python -m benchmarks.real.alone --tasks chain_sum gcd:200 --rounds 120 --parallel 6 --minutes 8 --without-trl
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
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real import tasks
from hivemind_exp.intervals import wilson
from hivemind_exp.node_files import NodeFiles

NODE = "measured"
GOAL = 40
"""Points of accuracy whose first evaluation is reported."""
STOP_S = 30.0
"""How long a node may take to stop before it is killed."""


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
    evaluations: tuple[tuple[int, float], ...] = ()
    """Finished rounds and accuracy, for each evaluation. TRL is only evaluated before and after."""

    @property
    def points_a_minute(self) -> float:
        return 100 * (self.after - self.before) / (self.seconds / 60)

    @property
    def reached(self) -> int | None:
        """Finished rounds at the first evaluation that was ``GOAL`` points above the first one, or None."""
        goal = self.before + GOAL / 100
        return next((rounds for rounds, right in self.evaluations if right >= goal - 1e-9), None)


@dataclass(frozen=True)
class Job:
    """A run to do."""

    task: str
    seed: int
    rounds: int


def run_node(job: Job, options: argparse.Namespace, home: Path, deadline: float | None = None) -> Run:
    """Train a node as a user would, and stop it at ``deadline`` (of ``time.monotonic``).

    Returns its run. Raises ``CalledProcessError`` if it fails.
    """
    command = [sys.executable, "-m", "swarmctl", "run", "--profile", options.profile, "--node", NODE, "--json", "-q"]
    command += ["--yes", "--seed", str(job.seed), "--rounds", str(job.rounds)]
    table = tasks.table(job.task, home)
    if table is not None:
        command += ["--set", f"tasks=[{_toml(table)}]"]
    for change in [f"model.name={options.model}", *options.set]:
        command += ["--set", change]
    environment = {**os.environ, "SWARMCTL_HOME": str(home)}
    with (home / "log").open("w") as log:
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            code = node.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = 0
            stop(node)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return read_run(job.task, job.seed, home)


def stop(node: subprocess.Popen[bytes]) -> None:
    """Stop a node; kill it if it takes longer than ``STOP_S``. In the background of a script, it ignores Ctrl-C."""
    node.terminate()
    try:
        node.wait(STOP_S)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


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
        tuple((event["round"], event["accuracy"]) for event in evaluations),
    )


@contextmanager
def trl(job: Job, home: Path) -> Iterator[Callable[[], Run]]:
    """Yield a function that trains with plain TRL, after the node in ``home``. It raises ``CalledProcessError``.

    Its process imports its libraries meanwhile, and does not touch the accelerator before it is told to train.
    """
    command = [sys.executable, "-m", "benchmarks.real.plain_trl", str(home / "nodes" / NODE), "--seed", str(job.seed)]
    with (home / "trl.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

        def train() -> Run:
            printed, _ = process.communicate("go\n")
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
            return Run(job.task, job.seed, **json.loads(printed.splitlines()[-1]))

        try:
            yield train
        finally:
            if process.poll() is None:
                process.communicate()  # closes its standard input, so it ends


def export(home: Path, target: Path) -> None:
    """Write the node's model to ``target``. Raises ``CalledProcessError``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "swarmctl", "export", NODE, str(target), "--yes"]
    with (home / "export.log").open("w") as log:
        subprocess.run(command, env={**os.environ, "SWARMCTL_HOME": str(home)}, stdout=log, stderr=log, check=True)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _task(text: str) -> tuple[str, int | None]:
    """Return a task's name, and its rounds if they are given."""
    name, _, rounds = text.partition(":")
    if name not in tasks.NAMES:
        raise argparse.ArgumentTypeError(f"unknown task: {name}")
    return name, int(rounds) if rounds else None


def show(name: str, run: Run) -> None:
    """Print one run on one line."""
    low, high = wilson(run.after, run.questions)
    curve = " ".join(f"{share:.2f}" for share in run.curve)
    print(
        f"{run.task:20} seed {run.seed} {name:9} {run.before:.2f} -> {run.after:.2f} ({low:.2f} to {high:.2f}) "
        f"{run.seconds:6.1f} s {run.points_a_minute:6.1f} points/min   {curve}",
        flush=True,
    )
    if run.evaluations:
        steps = ", ".join(f"{rounds}: {right:.3f}" for rounds, right in run.evaluations)
        print(f"{'':20} by rounds {steps}; +{GOAL} points after: {run.reached}", flush=True)


def compare(job: Job, options: argparse.Namespace, deadline: float | None) -> tuple[Run, Run | None]:
    """Run a node and, unless told otherwise, TRL."""
    task, seed = job.task, job.seed
    with ExitStack() as ends:
        home = Path(ends.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        train_plain = None if options.without_trl else ends.enter_context(trl(job, home))
        try:
            node = run_node(job, options, home, deadline)
            show("swarmctl", node)
            if options.events is not None:
                options.events.mkdir(parents=True, exist_ok=True)
                shutil.copy(NodeFiles(home / "nodes" / NODE).events, options.events / f"{task}-{seed}.jsonl")
            if options.export is not None:
                export(home, options.export / f"{task}-{seed}")
            plain = None if train_plain is None else train_plain()
        except subprocess.CalledProcessError:
            for log in sorted(home.glob("*log")):
                print(f"{task} seed {seed}: {log.name} ends with\n{log.read_text()[-1500:]}", flush=True)
            raise
        if plain is not None:
            show("plain TRL", plain)
        return node, plain


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks",
        nargs="+",
        type=_task,
        default=[("sum", None), ("largest", None)],
        metavar="NAME[:ROUNDS]",
        help=", ".join(tasks.NAMES),
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the node")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; more than one makes times useless")
    parser.add_argument("--minutes", type=float, help="stop all nodes then; the latest evaluation counts")
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--events", type=Path, help="directory for the nodes' event logs")
    parser.add_argument("--export", type=Path, help="directory for the trained models")
    parser.add_argument("--directory", type=Path, help="where to put the nodes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [Job(task, seed, rounds or options.rounds) for seed in seeds for task, rounds in options.tasks]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(lambda job: compare(job, options, deadline), jobs))
    for task, _ in options.tasks:
        pairs = [(node, plain) for node, plain in results if node.task == task]
        gains = [100 * (node.after - node.before) for node, _ in pairs]
        line = f"{task:20} {statistics.mean(gains):+.1f} points ({min(gains):+.1f} to {max(gains):+.1f})"
        line += f"; +{GOAL} after {', '.join(str(node.reached) for node, _ in pairs)} rounds"
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
