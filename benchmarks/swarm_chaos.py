"""A storm of several minutes over real nodes: every few seconds one is killed, frozen or restarted, the first included.

Each node is ``swarmctl run`` in a home of its own; the first founds the swarm, the others join by its line and nothing
else. Afterwards it is counted what was lost: rounds, records, processes, socket files, peers. Every half minute an
observer reads all that is stored in the swarm and checks it with the nodes' own validator.

    python -m benchmarks.swarm_chaos --minutes 5 --nodes 5

With ``--split MINUTES`` it cuts a network in two instead, with nodes on both sides (Linux, root), and measures how long
the swarm takes to be whole again after the cable is back. Ends with status 1 where anything is wrong.
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
from tests.support.chaos.nodes import ROOT, CommandSwarm, Swarm, until
from tests.support.chaos.storm import LEARNED, Outcome, gather, teller, weather

NAMES = ("ada", "bert", "cleo", "dan", "eve", "finn", "gwen", "hugo", "ida", "jan")
HEALED_S = 600.0


def make_model(root: Path) -> Path:
    """Return a tiny model that is right now and then, so that nodes have something to learn from each other."""
    words = ("run", "--profile", "demo", "--node", "school", "--rounds", "1", "--quiet", "--plain", "--no-input")
    values = ("node.fresh=false", "warmup.steps=250", "eval.questions=20", "checkpoint.every=1")
    command = [sys.executable, "-m", "swarmctl", *words, *(word for value in values for word in ("--set", value))]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SWARMCTL_HOME": str(root)}, check=True)
    return next(NodeFiles(root / "nodes" / "school").checkpoints.glob("*/model"))


def storm(arguments: argparse.Namespace, root: Path, settings: str, say: Callable[[str], None]) -> list[str]:
    """Let a storm pass over nodes on loopback; return what went wrong."""
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
    """Cut a network between two halves of the nodes for a while; return what went wrong."""
    near = arguments.nodes // 2
    with Network([near, arguments.nodes - near]) as network:
        with CommandSwarm(root, NAMES[: arguments.nodes], network.namespaces, settings) as swarm:
            gather(swarm, say)
            network.cut(0)
            cut = time.time()
            say("cut")
            time.sleep(60 * arguments.split)
            before = [node.rounds() for node in swarm.nodes]
            # What was heard before the cut is used up by then.
            inside = set(evidence.hearing(swarm.nodes, swarm.invitation.charter, cut + 5))
            network.heal(0)
            healed = time.time()
            say("the cable is back")
            whole = evidence.pairs(swarm.nodes)

            def heard() -> dict[evidence.Pair, float]:
                return evidence.hearing(swarm.nodes, swarm.invitation.charter, healed)

            faults = [] if until(lambda: whole <= heard().keys(), HEALED_S, swarm.watch) else ["never whole again"]
            say("whole again")
            for node in swarm.nodes:
                swarm.stop(node)
                faults += evidence.faults(node, swarm.invitation.charter)
            sides = [{node.name for node in half} for half in (swarm.nodes[:near], swarm.nodes[near:])]
            across = {pair for pair in whole if not any(set(pair) <= side for side in sides)}
            faults += [f"{pair} heard each other through the cut" for pair in across & inside]
            faults += [f"{pair} did not hear each other on their side" for pair in whole - across - inside]
            print(f"cut for {arguments.split:g} minutes; rounds at its end {before}, at the end {_rounds(swarm)}")
            print(f"across the cut, who used what whom wrote afterwards, after seconds: {_spread(heard(), across)}")
            return faults


def _report(swarm: Swarm, outcome: Outcome) -> None:
    print(f"\n{len(swarm.nodes)} nodes, a storm of {outcome.seconds / 60:.1f} minutes, {outcome.acts.total()} acts:")
    for what, count in sorted(outcome.acts.items()):
        print(f"  {count:3d} × {what}")
    print("\nnode      deaths  stops  lives  rounds  longest pause")
    for node, rounds, lives, pause in zip(swarm.nodes, outcome.rounds, outcome.lives, outcome.pauses, strict=True):
        print(f"{node.name:8}  {node.deaths:6}  {node.stops - 1:5}  {lives:5}  {rounds:6}  {pause:11.1f} s")
    records, bundles = len(outcome.stored.records), len(outcome.stored.bundles)
    print(f"\nrecords read and checked: {records}, naming {bundles} bundles; stale ones met: {outcome.stored.stale}")
    print(f"after the storm, who used what whom wrote then, after seconds: {_spread(outcome.heard, outcome.heard)}")


def _rounds(swarm: Swarm) -> list[int]:
    return [node.rounds() for node in swarm.nodes]


def _spread(heard: dict[evidence.Pair, float], which: object) -> str:
    times = sorted(seconds for pair, seconds in heard.items() if pair in which)  # type: ignore[operator]
    if not times:
        return "never"
    return f"{times[0]:.1f} first, {times[len(times) // 2]:.1f} median, {times[-1]:.1f} last of {len(times)} pairs"


def main() -> int:
    """Run the benchmark. Returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the storm lasts")
    parser.add_argument("--nodes", type=int, default=5, choices=range(2, len(NAMES) + 1))
    parser.add_argument("--seed", type=int, default=1, help="of the storm")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two acts")
    parser.add_argument("--split", type=float, metavar="MINUTES", help="cut the network in two for so long instead")
    arguments = parser.parse_args()
    if arguments.split is not None and (why := obstacle()) is not None:
        parser.error(why)
    os.nice(10)
    say = teller()
    with tempfile.TemporaryDirectory(prefix="swarm-chaos-") as root:
        model = make_model(Path(root) / "school")
        say("the model knows the format")
        settings = LEARNED.format(model=model)
        faults = (storm if arguments.split is None else split)(arguments, Path(root), settings, say)
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in faults) or "nothing was lost"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
