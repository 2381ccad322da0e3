"""Measure the settings that the built-in profiles choose: learning rates, with and without adapters, and round sizes.

Each arm is a node that trains a real model with ``swarmctl run``, in a fixed prompt style. Arms of a comparison train
as many completions, so a larger round means fewer steps. Prints greedy accuracy on 200 held-out questions by number of
completions, then a table of the arms with the median and the range over tasks and seeds.

    python -m benchmarks.real.defaults --comparisons rates lora --seeds 2 --parallel 12
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real import alone

EVALUATIONS = 4
"""How often a run is evaluated after the first evaluation."""
STYLES = {"sum": ("plain", 0), "word_sequence_reversal": ("plain", 3)}
"""Prompt style and number of examples for each task that can be measured here."""
RANK = 16


@dataclass(frozen=True, slots=True)
class Arm:
    """The settings of a node. A round has ``groups`` questions with ``size`` completions each."""

    groups: int
    size: int
    rate: float
    lora: bool = False
    longest: int = 32
    """Most tokens of a completion."""

    @property
    def name(self) -> str:
        weights = "LoRA" if self.lora else "all weights"
        return f"{self.groups} x {self.size} x {self.longest}, {weights}, {self.rate:.0e}"

    def changes(self) -> list[str]:
        """Return the arm's settings, as arguments of ``--set``."""
        changes = [f"game.groups={self.groups}", f"game.group_size={self.size}", f"train.learning_rate={self.rate}"]
        changes += [f"generation.max_completion_tokens={self.longest}"]
        return [*changes, f"model.lora={{rank = {RANK}, alpha = {2 * RANK}}}"] if self.lora else changes


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms that train on as many completions each."""

    completions: int
    arms: tuple[Arm, ...]


COMPARISONS: Mapping[str, Comparison] = {
    "rates": Comparison(7680, tuple(Arm(8, 8, rate) for rate in (3e-6, 1e-5, 2e-5, 4e-5))),
    "rates-large": Comparison(7680, tuple(Arm(16, 8, rate) for rate in (1e-5, 2e-5, 4e-5))),
    "shapes": Comparison(7680, (Arm(16, 4, 1e-5), Arm(8, 8, 1e-5), Arm(4, 16, 1e-5))),
    "lengths": Comparison(7680, tuple(Arm(8, 8, 1e-5, longest=tokens) for tokens in (16, 32, 128, 512))),
    "lora": Comparison(7680, tuple(Arm(8, 8, rate, lora=True) for rate in (1e-4, 3e-4, 1e-3))),
    "lora-small": Comparison(
        3840, (*(Arm(4, 8, rate, lora=True) for rate in (3e-5, 1e-4, 3e-4, 1e-3)), Arm(4, 8, 1e-5))
    ),
    "lora-shapes": Comparison(
        3840, (Arm(8, 4, 3e-4, lora=True), Arm(4, 8, 3e-4, lora=True), Arm(2, 16, 3e-4, lora=True))
    ),
    "lora-tiny": Comparison(
        1600,
        (*(Arm(2, 4, rate, lora=True) for rate in (1e-4, 3e-4, 1e-3)), Arm(1, 8, 3e-4, lora=True), Arm(2, 4, 1e-5)),
    ),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run of an arm."""

    comparison: str
    arm: Arm
    task: str
    seed: int

    @property
    def rounds(self) -> int:
        return COMPARISONS[self.comparison].completions // (self.arm.groups * self.arm.size)


@dataclass(frozen=True, slots=True)
class Result:
    """Greedy accuracy at the start, and after each of ``EVALUATIONS`` equal parts of the completions."""

    job: Job
    accuracy: tuple[float, ...]

    @property
    def points(self) -> float:
        return 100 * (self.accuracy[-1] - self.accuracy[0])


def run(job: Job, options: argparse.Namespace) -> Result | None:
    """Train a node. Returns None, and prints the end of its log, if it fails."""
    style, examples = STYLES[job.task]
    changes = [f"prompt.style={style}", f"prompt.examples={examples}", f"eval.every={job.rounds // EVALUATIONS}"]
    changes += ["checkpoint.every=100000", "model.threads=1", *job.arm.changes(), *options.set]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        node = argparse.Namespace(profile="smol", model=options.model, set=changes)
        try:
            result = alone.run_node(alone.Job(job.task, job.seed, job.rounds), node, home)
        except (subprocess.CalledProcessError, IndexError):
            print(f"{job} failed:\n{(home / 'log').read_text()[-1500:]}", flush=True)
            return None
    found = Result(job, tuple(right for _, right in result.evaluations))
    curve = " ".join(f"{right:.3f}" for right in found.accuracy)
    print(
        f"{job.comparison:12} {job.arm.name:33} {job.task:24} seed {job.seed}  {curve}  "
        f"{result.seconds:.0f} s of rounds, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return found


def table(results: Sequence[Result]) -> str:
    """Return a line for each arm and task: the median over the seeds, with the range."""
    lines = []
    for comparison in dict.fromkeys(each.job.comparison for each in results):
        lines.append(f"{comparison}: {COMPARISONS[comparison].completions} completions")
        for arm, task in dict.fromkeys((e.job.arm, e.job.task) for e in results if e.job.comparison == comparison):
            runs = [e for e in results if (e.job.comparison, e.job.arm, e.job.task) == (comparison, arm, task)]
            parts = [statistics.median(part) for part in zip(*(each.accuracy for each in runs), strict=False)]
            points = [each.points for each in runs]
            curve = " ".join(f"{part:.3f}" for part in parts)
            lines.append(
                f"  {arm.name:33} {task:24} {curve}  {statistics.median(points):+.1f} points "
                f"({min(points):+.1f} to {max(points):+.1f}), {len(runs)} runs"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", nargs="+", choices=list(COMPARISONS), default=list(COMPARISONS))
    parser.add_argument("--tasks", nargs="+", choices=list(STYLES), default=list(STYLES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of all nodes")
    parser.add_argument("--parallel", type=int, default=12, help="nodes at a time")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    jobs = [
        Job(comparison, arm, task, seed)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for comparison in options.comparisons
        for arm in COMPARISONS[comparison].arms
        for task in options.tasks
    ]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = [result for result in pool.map(lambda job: run(job, options), jobs) if result is not None]
    print(table(results))
    if options.json is not None:
        rows = [
            {
                "comparison": e.job.comparison,
                "arm": e.job.arm.name,
                "task": e.job.task,
                "seed": e.job.seed,
                "accuracy": e.accuracy,
            }
            for e in results
        ]
        options.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
