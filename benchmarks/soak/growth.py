"""Play as many rounds as a node plays in a week, and measure whether anything of it grows."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import psutil

from tests.support.chaos.attacks import Victim, find
from tests.support.chaos.nodes import Node
from tests.support.chaos.supervised import SupervisedSwarm

SETTINGS = """
[warmup]
steps = 20
[eval]
every = 100
questions = 4
[game]
rounds = {rounds}
groups = 1
group_size = 2
[generation]
max_completion_tokens = 4
[checkpoint]
every = 50
keep = 2
[journal]
keep_rounds = 200
[report]
events_mb = 1
"""
"""Settings of a node that plays many rounds per second, and keeps little."""
SETTLED = 0.25
"""The first part of the rounds, in which everything is still filled up."""
BOUNDS = {"memory MiB": 2.0, "open files": 0.5, "threads": 0.5, "temporary files": 0.5, "files": 0.5, "disk kB": 300.0}
"""The most that may be added per 1000 rounds. The journal keeps a few numbers of each round."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node used after a number of rounds."""

    rounds: int
    used: Mapping[str, float]
    sizes: Mapping[str, int]
    """Bytes by file or directory in the node's directory."""


def play(root: Path, rounds: int, every: int, say: Callable[[str], None]) -> list[Sample]:
    """Play rounds in a swarm of one, and return a sample for each ``every`` rounds."""
    temporary = root / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    samples: list[Sample] = []
    with SupervisedSwarm(root, ["ada"], settings=SETTINGS.format(rounds=rounds)) as swarm:
        swarm.found()
        swarm.start(swarm.founder)
        assert swarm.founder.life is not None
        while not swarm.founder.life.ended:
            done = swarm.founder.rounds()
            if done >= (samples[-1].rounds if samples else 0) + every:
                with contextlib.suppress(psutil.Error, FileNotFoundError):  # it ends just now
                    samples.append(measure(swarm.founder, temporary, done))
                    say(
                        f"round {done}: " + ", ".join(f"{value:.0f} {name}" for name, value in samples[-1].used.items())
                    )
            time.sleep(2)
    return samples


def measure(node: Node, temporary: Path, rounds: int) -> Sample:
    """Return what a node uses. Raises psutil.Error if it has ended."""
    members = [process for victim in Victim if (process := find(node, victim)) is not None]
    sizes: Counter[str] = Counter()
    for path in node.files.root.iterdir():
        sizes[re.sub("[0-9]+", "N", path.name)] += _size(path)  # all parts of the log together
    used = {
        "memory MiB": sum(process.memory_info().rss for process in members) / 2**20,
        "open files": sum(process.num_fds() for process in members),
        "threads": sum(process.num_threads() for process in members),
        "temporary files": sum(1 for _ in _files(temporary)),
        "files": sum(1 for _ in _files(node.files.root)),
        "disk kB": sum(sizes.values()) / 1000,
    }
    return Sample(rounds, used, sizes)


def report(samples: Sequence[Sample]) -> Iterator[str]:
    """Print how much was added per 1000 rounds. Yields what grows too much."""
    settled = [sample for sample in samples if sample.rounds >= SETTLED * samples[-1].rounds]
    print(f"\n{samples[-1].rounds} rounds; slopes over the last {settled[-1].rounds - settled[0].rounds}:")
    for name, bound in BOUNDS.items():
        values = [sample.used[name] for sample in settled]
        slope = 1000 * _slope([sample.rounds for sample in settled], values)
        print(f"  {name:16} {values[0]:10.1f} to {values[-1]:10.1f}, {slope:+8.2f} per 1000 rounds")
        if slope > bound:
            yield f"{name}: {slope:+.2f} per 1000 rounds"
    for name in sorted({name for sample in settled for name in sample.sizes}):
        sizes = [sample.sizes.get(name, 0) for sample in settled]
        slope = 1000 * _slope([sample.rounds for sample in settled], sizes)
        if abs(slope) > 1000:
            print(f"    {name}: {sizes[0]:,} to {sizes[-1]:,} bytes, {slope:+,.0f} per 1000 rounds")


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the median slope of the lines through two points each (Sen 1968); 0 for fewer than two points.

    A checkpoint that is just being replaced, in every second sample, would tilt a least-squares line.
    """
    points = zip(xs, ys, strict=True)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    return statistics.median(slopes) if slopes else 0.0


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file():
            yield path


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in ([path] if path.is_file() else _files(path)))
