"""Measure how much hostile peers harm a swarm: compare its nodes' accuracy with and without each attacker.

Two or more real nodes learn together over the real network protocol on loopback, with the same seeds, weights and
questions: first without attackers, then with one attacker at a time, then with all of them. Prints one line per run,
with medians over the seeds:

* accuracy (greedy, held-out questions, mean over the nodes) before and after
* difference from the run without attackers
* attackers' share of the correct answers drawn from peers
* rows that the filter by the node's own policy left out
* completions that a node drew from honest peers
* peak memory, and seconds

    python -m benchmarks.swarm_hostile --seeds 3
    python -m benchmarks.swarm_hostile --only poisoned_reasoning,all --rounds 100

Nodes pause for half a second per round, so that there is time to attack them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hivemind_exp.swarm.identity import Identity
from tests.support.hostile.arena import Arena, found_swarm, make_base
from tests.support.hostile.attacks import ATTACKS
from tests.support.hostile.siege import Siege

PEACE, ALL = "(none)", "all"
PATIENCE_S = 1200.0


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run, averaged over the nodes."""

    before: float
    after: float
    hostile: float
    """Attackers' share of the correct answers drawn from peers."""
    filtered: float
    """Rows left out of a node's steps."""
    honest: float
    """Completions that a node drew from honest peers."""
    mib: float
    """Peak memory of a node's processes together."""
    seconds: float


def run(attack: str, *, seed: int, nodes: int, rounds: int, base: Path) -> Result:
    """Let a swarm learn under ``attack``, or undisturbed if it is ``PEACE``. Raises AssertionError if a node fails."""
    names = [] if attack == PEACE else list(ATTACKS) if attack == ALL else [attack]
    founder = Identity.generate()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        rules = found_swarm(founder)
        with Arena(root / "nodes", rules, founder, base) as arena:
            for number in range(nodes):
                arena.add(f"node{number}", seed=1000 * seed + number, rounds=rounds)
            begun = time.perf_counter()
            arena.start()
            villains: frozenset[str] = frozenset()
            if names:
                with Siege(root / "hostile", arena.nodes, rules, names) as siege:
                    siege.begin()
                    arena.begin(PATIENCE_S)
                    arena.wait(PATIENCE_S)
                assert not siege.failures, siege.failures
                villains = siege.peer_ids
            else:
                arena.begin(PATIENCE_S)
                arena.wait(PATIENCE_S)
            seconds = time.perf_counter() - begun
            heard = [(peer, reward) for node in arena.nodes for peer, _, reward in node.heard()]
            paid = [peer for peer, reward in heard if reward]
            return Result(
                before=statistics.mean(node.accuracy[0] for node in arena.nodes),
                after=statistics.mean(node.accuracy[1] for node in arena.nodes),
                hostile=sum(peer in villains for peer in paid) / max(1, len(paid)),
                filtered=statistics.mean(node.filtered() for node in arena.nodes),
                honest=sum(peer not in villains for peer, _ in heard) / nodes,
                mib=statistics.mean(node.peak.bytes for node in arena.nodes) / 2**20,
                seconds=seconds,
            )


def median(results: Sequence[Result]) -> Result:
    """Return the median of each value."""
    return Result(
        **{field.name: statistics.median(getattr(result, field.name) for result in results) for field in fields(Result)}
    )


def line(attack: str, result: Result, peace: Result) -> str:
    return (
        f"{attack:24}  {result.before:6.3f}  {result.after:6.3f}  {result.after - peace.after:+6.3f}  "
        f"{100 * result.hostile:6.1f} %  {result.filtered:8.0f}  {result.honest:6.0f}  {result.mib:6.0f}  "
        f"{result.seconds:7.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=150, help="warm-up steps of the model that all nodes start with")
    parser.add_argument("--only", default=",".join((*ATTACKS, ALL)), help="comma-separated attacks")
    arguments = parser.parse_args()
    attacks = arguments.only.split(",")
    if unknown := set(attacks) - {*ATTACKS, ALL}:
        parser.error(f"unknown attack: {', '.join(sorted(unknown))}")
    print(
        f"{'attack':24}  {'before':>6}  {'after':>6}  {'diff':>6}  {'hostile':>8}  {'filtered':>8}  {'honest':>6}  "
        f"{'MiB':>6}  {'seconds':>7}"
    )
    with tempfile.TemporaryDirectory() as directory:
        bases = []
        for seed in range(arguments.seeds):
            bases.append(Path(directory) / f"base{seed}")
            make_base(bases[-1], steps=arguments.warmup, seed=seed)
        peace = None
        for attack in (PEACE, *attacks):
            results = [
                run(attack, seed=seed, nodes=arguments.nodes, rounds=arguments.rounds, base=base)
                for seed, base in enumerate(bases)
            ]
            peace = median(results) if peace is None else peace
            print(line(attack, median(results), peace), flush=True)


if __name__ == "__main__":
    main()
