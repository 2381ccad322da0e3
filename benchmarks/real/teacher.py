"""Measure what a real model learns from a better one behind an API, beside what it learns alone.

The teacher is a checkpoint of the same model that was trained on the task before (``benchmarks.real.alone --export``),
behind ``benchmarks.token_server`` at a fixed price. The student is a new node, trained with ``swarmctl run``. Arms:

- *alone*: no API.
- *answers*: the API writes all completions; *half*: half of each group; *failed*: half of a group, and only if none of
  the node's own is correct.
- *hints*: after a group without a correct answer, the node answers again with a hint. The teacher cannot write hints,
  so a script does: it names the first step, as a larger model would. Only for ``sum`` and
  ``word_sequence_reversal``.
- *distillation*: the teacher scores the tokens of the node's own completions.

All arms have the same rounds, prompts and learning rate. Local work is counted in tokens: those generated here, and
three times those learned from. Prints greedy accuracy on 200 held-out questions by round, then for each arm the last
one, those that it had reached with a quarter, a half and all of the local work of the first arm (interpolated linearly
between evaluations; where an arm did less work, its last one, in brackets), and cents per point.

    python -m benchmarks.real.alone --tasks word_sequence_reversal --seeds 1 --first-seed 100 --without-trl \\
        --set prompt.style=plain --set prompt.examples=3 --export teachers
    python -m benchmarks.real.teacher teachers/word_sequence_reversal-100 --task word_sequence_reversal --seeds 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real import alone, tasks
from hivemind_exp.node_files import NodeFiles

PRICE = {"input": 0.15, "output": 0.60}
"""Dollars per million tokens, as for gpt-4o-mini."""
BACKWARD = 3
"""A forward and backward pass over a token costs about as much as three forward passes."""
PARTS = (0.25, 0.5, 1.0)
"""Shares of the first arm's local work after which the arms are compared."""
LONGEST = 48
"""Most tokens that the API may write per answer or hint."""

ARMS: Mapping[str, Mapping[str, str] | None] = {
    "alone": None,
    "answers": {"share": "1.0"},
    "half": {"share": "0.5"},
    "failed": {"share": "0.5", "when": "failed"},
    "hints": {"share": "0.5", "teach": "hints"},
    "distillation": {"teach": "distillation"},
}
"""Settings of ``[offload]`` for each arm; None: no API."""


@dataclass(slots=True)
class Curve:
    """One run, with one value per evaluation in the lists."""

    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    """Tokens of local work so far."""
    usd: float = 0.0
    paid: int = 0
    """Tokens sent to the API and received from it."""
    hints: int = 0
    taught: int = 0
    """Hints that led to an answer that the node learned from."""

    @property
    def points(self) -> float:
        return 100 * (self.accuracy[-1] - self.accuracy[0])

    @property
    def cents_a_point(self) -> float | None:
        return 100 * self.usd / self.points if self.usd and self.points > 0 else None

    def within(self, work: float) -> float:
        """Return the accuracy after so much local work, interpolated between evaluations."""
        return float(np.interp(work, self.work, self.accuracy))


def read_curve(log: Path) -> Curve:
    """Return what a node's events say about its run."""
    curve, work, steps = Curve(), 0, set[int]()
    for line in log.read_text(encoding="utf-8").splitlines():
        match json.loads(line):
            case {"event": "rollouts", "source": "policy" | "hinted", "tokens": int(tokens)}:
                work += tokens
            case {"event": "step", "step": int(step), "tokens": int(tokens)} if step not in steps:
                steps.add(step)
                work += BACKWARD * tokens
            case {"event": "spend", "usd": float(usd), "tokens": int(tokens)}:
                curve.usd += usd
                curve.paid += tokens
            case {"event": "hints", "hints": int(hints), "taught": int(taught)}:
                curve.hints += hints
                curve.taught += taught
            case {"event": "eval", "round": int(rounds), "accuracy": float(accuracy)}:
                curve.rounds.append(rounds)
                curve.accuracy.append(accuracy)
                curve.work.append(work)
    return curve


@contextmanager
def served(teacher: Path, device: str) -> Iterator[str]:
    """Yield the address of a new server."""
    command = [sys.executable, "-m", "benchmarks.token_server", str(teacher), "--device", device]
    command += ["--hints", "benchmarks.real.tasks:first_step"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def settings(arm: str, address: str, options: argparse.Namespace) -> list[str]:
    """Return an arm's settings, as arguments of ``--set``."""
    changes = [f"prompt.style={options.style}", f"prompt.examples={options.examples}", f"eval.every={options.every}"]
    offload = ARMS[arm]
    if offload is None:
        return changes
    price = f"{{input = {PRICE['input']}, output = {PRICE['output']}}}"
    changes += ["offload.provider=teacher", f"offload.model={options.teacher.name}", "offload.fallback=[]"]
    changes += [f'providers={{teacher = {{base_url = "{address}/v1", group = "n"}}}}']
    changes += [f"offload.prices={{teacher = {price}}}", f"offload.max_tokens={LONGEST}"]
    return [*changes, *(f"offload.{key}={value}" for key, value in offload.items())]


def run(arm: str, seed: int, address: str, options: argparse.Namespace, deadline: float | None) -> Curve | None:
    """Train a student. Returns None, and prints the end of its log, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        node = argparse.Namespace(
            profile="smol", model=options.model, set=[*settings(arm, address, options), *options.set]
        )
        try:
            alone.run_node(alone.Job(options.task, seed, options.rounds), node, home, deadline)
        except (subprocess.CalledProcessError, IndexError):
            print(f"{arm} seed {seed} failed:\n{(home / 'log').read_text()[-1500:]}", flush=True)
            return None
        curve = read_curve(NodeFiles(home / "nodes" / alone.NODE).events)
    steps = ", ".join(f"{rounds}: {right:.3f}" for rounds, right in zip(curve.rounds, curve.accuracy, strict=True))
    print(f"{arm:12} seed {seed}  {steps}", flush=True)
    return curve


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the range if there are several values."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def at_equal_work(curves: Sequence[Curve], work: Sequence[float]) -> str:
    """Return the accuracy of runs after so much work each. In brackets if a run did less."""
    pairs = list(zip(curves, work, strict=True))
    text = spread([curve.within(most) for curve, most in pairs], ".3f")
    return f"[{text}]" if any(curve.work[-1] < most for curve, most in pairs) else text


def table(curves: Mapping[str, Sequence[Curve]]) -> str:
    """Return the results: one line per arm, each with a curve per seed."""
    first = next(iter(curves.values()))
    lines = [
        "arm | before | after | 1/4, 1/2, all of the work | work, 1000 tokens | API tokens | cents a point | hints"
    ]
    for arm, found in curves.items():
        cents = [each.cents_a_point for each in found]
        lines.append(
            " | ".join(
                [
                    arm,
                    spread([each.accuracy[0] for each in found], ".3f"),
                    spread([each.accuracy[-1] for each in found], ".3f"),
                    ", ".join(at_equal_work(found, [part * each.work[-1] for each in first]) for part in PARTS),
                    spread([each.work[-1] / 1000 for each in found], ".0f"),
                    spread([each.paid for each in found], ",.0f"),
                    spread([each for each in cents if each is not None], ".4f") if all(cents) else "-",
                    f"{sum(each.taught for each in found)} of {sum(each.hints for each in found)} taught",
                ]
            )
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="directory of the teacher's model")
    parser.add_argument("--task", choices=tasks.NAMES, required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="rounds between evaluations")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--style", default="plain", help="prompt style of the teacher and the students")
    parser.add_argument("--examples", type=int, default=3, help="examples in each prompt")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of all nodes")
    parser.add_argument("--device", default="cuda", help="the server's device")
    parser.add_argument("--parallel", type=int, default=4, help="students at a time (9 GB each, the server 18 GB)")
    parser.add_argument("--minutes", type=float, help="stop all students then; the latest evaluation counts")
    options = parser.parse_args(arguments)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(arm, seed) for seed in seeds for arm in options.arms]
    with served(options.teacher, options.device) as address, ThreadPoolExecutor(options.parallel) as pool:
        found = list(pool.map(lambda job: run(job[0], job[1], address, options, deadline), jobs))
    curves: dict[str, list[Any]] = {
        arm: [curve for (each, _), curve in zip(jobs, found, strict=True) if each == arm] for arm in options.arms
    }
    print(table({arm: runs for arm, runs in curves.items() if all(runs)}))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
