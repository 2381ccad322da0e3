"""A week of a node's life in compressed time, with real processes.

    python -m benchmarks.soak                  # all four parts, about an hour on two cores
    python -m benchmarks.soak kills --kills 50
    python -m benchmarks.soak failures         # as root: it mounts a small disk and limits memory
    python -m benchmarks.soak growth --rounds 20000
    python -m benchmarks.soak swarm --acts 40

kills: one node that an API helps is killed (-9) at random moments over all its processes. Afterwards, its weights must
be equal, bit by bit, to those of a twin that was left alone. failures: the disk is full, inodes, memory and the API
fail, the trainer hangs, the clock jumps. growth: memory, files and disk over many rounds (at least 5000, as the journal
and the log fill up first). swarm: three nodes are killed and frozen, and their clocks jump. Only the supervisor's
pauses are shorter than usual. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.soak import failures, growth, swarm
from benchmarks.swarm_chaos import make_model
from tests.support.chaos.attacks import OFFLOADED, Victim, attacked, money_faults
from tests.support.chaos.storm import LEARNED, teller
from tests.support.chaos.supervised import SupervisedSwarm
from tests.support.fake_api.remote import api_process

TEACHER = "tests.support.teachers:half_right"
Say = Callable[[str], None]


def kills(arguments: argparse.Namespace, root: Path, say: Say) -> list[str]:
    """Kill a supervised node over and over. Return what went wrong."""
    chance = random.Random(arguments.seed)
    victims = [list(Victim)[number % len(Victim)] for number in range(arguments.kills)]
    chance.shuffle(victims)
    with api_process(latency=0.05, answer=TEACHER) as server:
        settings = OFFLOADED.replace("BASE_URL", server.base_url)
        node = attacked(root, settings, chance, say, SupervisedSwarm)
        node.ending = (Victim.CLI,)  # swarmctl restarts the trainer
        with node.swarm, node.twin:
            node.run([(victim, signal.SIGKILL) for victim in victims], frozen_s=0)
            node.stop()
            books = server.settled()
            node.compare()
            node.faults += money_faults(node.node.files, books)
            print(f"\n{len(node.done)} kills, {node.node.rounds()} rounds, weights compared with the twin's")
            for victim in Victim:
                seconds = sorted(attack.seconds for attack in node.done if attack.victim is victim)
                if seconds:
                    times = f"median {seconds[len(seconds) // 2]:.1f} s, longest {seconds[-1]:.1f} s"
                    print(f"  {victim:12} {len(seconds):3} ×, next round: {times}")
            return node.faults


def fail(_: argparse.Namespace, root: Path, say: Say) -> list[str]:
    """Let everything around a node fail. Return what went wrong."""
    with api_process(latency=0.05, answer=TEACHER) as server, failures.failing_node(root, server, say) as node:
        node.run()
        node.finish()
        print("\n" + "\n".join(f"  {line}" for line in node.results))
        return node.faults


def grow(arguments: argparse.Namespace, root: Path, say: Say) -> list[str]:
    """Play many rounds. Return what grows."""
    return list(growth.report(growth.play(root, arguments.rounds, arguments.every, say)))


def meet(arguments: argparse.Namespace, root: Path, say: Say) -> list[str]:
    """Disturb a swarm. Return what went wrong."""
    model = make_model(root / "school")
    return swarm.storm(root, LEARNED.format(model=model), random.Random(arguments.seed), arguments.acts, say)


PARTS: dict[str, Callable[[argparse.Namespace, Path, Say], list[str]]] = {
    "kills": kills,
    "failures": fail,
    "growth": grow,
    "swarm": meet,
}


def main() -> int:
    """Run the benchmark. Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to run (default: everything)")
    parser.add_argument("--kills", type=int, default=50, help="kills of the one node")
    parser.add_argument("--rounds", type=int, default=20_000, help="rounds for growth; a week has 20,000 of 30 s")
    parser.add_argument("--every", type=int, default=250, help="rounds between two measurements")
    parser.add_argument("--acts", type=int, default=40, help="failures in the swarm")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments and of their order")
    arguments = parser.parse_args()
    os.nice(5)
    faults = []
    for part in arguments.parts or PARTS:
        say = teller()
        say(f"-- {part}")
        with tempfile.TemporaryDirectory(prefix=f"soak-{part}-") as root:
            faults += [f"{part}: {fault}" for fault in PARTS[part](arguments, Path(root), say)]
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in faults) or "Nothing was lost, doubled or left behind."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
