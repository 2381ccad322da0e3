"""Disturb real nodes for several minutes: every few seconds, kill, freeze or restart one, even the creator's.

Each node is ``swarmctl run`` with a separate home directory. The first node creates the swarm. The others join with its
invitation and nothing else. Afterwards the script counts what was lost: rounds, records, processes, socket files and
peers. Every half minute, an observer reads everything that is stored in the swarm and checks it with the nodes'
validator.

    python -m benchmarks.swarm_chaos --minutes 5 --nodes 5

With ``--split MINUTES``, it instead cuts a network in two, with nodes on both sides (Linux, as root), and measures how
long the swarm needs to recover after the network is reconnected. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from tests.support.chaos import evidence
from tests.support.chaos.namespaces import Network, obstacle
from tests.support.chaos.nodes import CommandSwarm, Swarm
from tests.support.chaos.patience import until
from tests.support.chaos.storm import LEARNED, Outcome, gather, teller, weather
from tests.support.command_line import ROOT

NAMES = ("ada", "bert", "cleo", "dan", "eve", "finn", "gwen", "hugo", "ida", "jan")
HEALED_S = 600.0


def make_model(root: Path) -> Path:
    """Return the path of a tiny model that is sometimes correct, so that nodes can learn from each other."""
    words = ("run", "--profile", "demo", "--node", "school", "--rounds", "1", "--quiet", "--plain", "--no-input")
    values = ("warmup.steps=250", "eval.questions=20", "checkpoint.every=1")
    command = [sys.executable, "-m", "swarmctl", *words, *(word for value in values for word in ("--set", value))]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SWARMCTL_HOME": str(root)}, check=True)
    return next(NodeFiles(root / "nodes" / "school").checkpoints.glob("*/model"))


def storm(arguments: argparse.Namespace, root: Path, settings: str, say: Callable[[str], None]) -> list[str]:
    """Disturb nodes on loopback. Return what went wrong."""
    with CommandSwarm(root, NAMES[: arguments.nodes], settings=settings) as swarm:
        gather(swarm, say)
        outcome = weather(
            swarm,
            root / "observer",
            seed=arguments.seed,
            seconds=60 * arguments.minutes,
            every=arguments.every,
            longest=8.0,
            look_every=30.0,
            say=say,
        )
        _report(swarm, outcome)
        return outcome.faults


def split(arguments: argparse.Namespace, root: Path, settings: str, say: Callable[[str], None]) -> list[str]:
    """Cut the network between two halves of the nodes for a while. Return what went wrong."""
    near = arguments.nodes // 2
    with Network([near, arguments.nodes - near]) as network:
        with CommandSwarm(root, NAMES[: arguments.nodes], network.namespaces, settings) as swarm:
            gather(swarm, say)
            network.cut(0)
            cut = time.time()
            say("network cut")
            time.sleep(60 * arguments.split)
            before = [node.rounds() for node in swarm.nodes]
            # By then, everything received before the cut is used up.
            inside = set(evidence.hearing(swarm.nodes, swarm.invitation.charter, cut + 5))
            network.heal(0)
            healed = time.time()
            say("network reconnected")
            whole = evidence.pairs(swarm.nodes)

            def heard() -> dict[evidence.Pair, float]:
                return evidence.hearing(swarm.nodes, swarm.invitation.charter, healed)

            faults = (
                [] if until(lambda: whole <= heard().keys(), HEALED_S, swarm.watch) else ["the swarm did not recover"]
            )
            say("the swarm has recovered")
            for node in swarm.nodes:
                swarm.stop(node)
                faults += evidence.faults(node, swarm.invitation.charter)
            sides = [{node.name for node in half} for half in (swarm.nodes[:near], swarm.nodes[near:])]
            across = {pair for pair in whole if not any(set(pair) <= side for side in sides)}
            faults += [f"{pair}: received data through the cut" for pair in across & inside]
            faults += [f"{pair}: received no data on their side of the cut" for pair in whole - across - inside]
            print(
                f"cut for {arguments.split:g} minutes; rounds when the cut ended: {before}, finally: {_rounds(swarm)}"
            )
            print(f"seconds until nodes used new data from across the cut: {_spread(heard(), across)}")
            return faults


def _report(swarm: Swarm, outcome: Outcome) -> None:
    print(f"\n{len(swarm.nodes)} nodes, {outcome.seconds / 60:.1f} minutes, {outcome.acts.total()} disruptions:")
    for what, count in sorted(outcome.acts.items()):
        print(f"  {count:3d} × {what}")
    print("\nnode      deaths  stops  starts  rounds  longest pause")
    for node, rounds, lives, pause in zip(swarm.nodes, outcome.rounds, outcome.lives, outcome.pauses, strict=True):
        print(f"{node.name:8}  {node.deaths:6}  {node.stops - 1:5}  {lives:6}  {rounds:6}  {pause:11.1f} s")
    records, bundles = len(outcome.stored.records), len(outcome.stored.bundles)
    print(f"\nrecords read and checked: {records}, listing {bundles} bundles; stale records: {outcome.stored.stale}")
    print(f"after the last disruption, seconds until nodes used new data: {_spread(outcome.heard, outcome.heard)}")


def _rounds(swarm: Swarm) -> list[int]:
    return [node.rounds() for node in swarm.nodes]


def _spread(heard: dict[evidence.Pair, float], which: object) -> str:
    times = sorted(seconds for pair, seconds in heard.items() if pair in which)  # type: ignore[operator]
    if not times:
        return "never"
    return f"first {times[0]:.1f}, median {times[len(times) // 2]:.1f}, last {times[-1]:.1f}, over {len(times)} pairs"


def main() -> int:
    """Run the benchmark. Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to disturb the nodes")
    parser.add_argument("--nodes", type=int, default=5, choices=range(2, len(NAMES) + 1))
    parser.add_argument("--seed", type=int, default=1, help="seed of the disruptions")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two disruptions")
    parser.add_argument("--split", type=float, metavar="MINUTES", help="instead, cut the network in two for this long")
    arguments = parser.parse_args()
    if arguments.split is not None and (why := obstacle()) is not None:
        parser.error(why)
    os.nice(10)
    say = teller()
    with tempfile.TemporaryDirectory(prefix="swarm-chaos-") as root:
        model = make_model(Path(root) / "school")
        say("the model is ready")
        settings = LEARNED.format(model=model)
        faults = (storm if arguments.split is None else split)(arguments, Path(root), settings, say)
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in faults) or "Nothing was lost."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
