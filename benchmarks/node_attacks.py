"""Kill or freeze every process of a node at random moments, and compare the node with one that was left alone.

The node is ``swarmctl run`` in a swarm without peers, with the tiny model on the CPU. An API on loopback fills half of
each group, or writes hints, or grades the node's completions, or fills and grades. The node's processes are
``swarmctl``, the trainer, the API process, a verifier, the maker and p2pd. Afterwards, a twin with the same identity
plays as many rounds undisturbed. Weights, completions and rewards must be equal, no completion may have been asked for
twice, and no process, socket or lock may be left.

    python -m benchmarks.node_attacks --times 5
    python -m benchmarks.node_attacks --times 5 --api judge

The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.chaos.attacks import (
    BOTH,
    HINTED,
    JUDGED,
    LOCAL,
    OFFLOADED,
    Attack,
    Victim,
    attacked,
    bill_faults,
    money_faults,
)
from tests.support.chaos.storm import teller
from tests.support.fake_api.remote import api_process

SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
APIS = {
    "answers": (OFFLOADED, "half_right"),
    "hints": (HINTED, "last_letter"),
    "judge": (JUDGED, "grade"),
    "both": (BOTH, "half_right_or_grade"),
}
"""What the API writes -> the node's settings, and what answers."""


def report(done: Sequence[Attack]) -> None:
    """Print a line for each process and signal."""
    print(f"\n{'process':12} {'signal':8} {'trials':>6}  {'seconds to the next round':27} outcome")
    for victim in Victim:
        for number in SIGNALS:
            trials = [attack for attack in done if (attack.victim, attack.number) == (victim, number)]
            if not trials:
                continue
            seconds = [attack.seconds for attack in trials]
            times = f"median {statistics.median(seconds):.1f}, longest {max(seconds):.1f}"
            outcomes = ", ".join(f"{count} × {what}" for what, count in Counter(a.outcome for a in trials).items())
            print(f"{victim:12} {number.name:8} {len(trials):6}  {times:27} {outcomes}")


def main() -> int:
    """Run the benchmark. Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="attacks for each process and signal")
    parser.add_argument("--api", choices=[*APIS, "none"], default="answers", help="what the API writes")
    parser.add_argument("--frozen", type=float, default=8.0, help="longest freeze in seconds")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments and of their order")
    parser.add_argument("--nice", type=int, default=0, help="niceness; with 10, a busy machine may take an hour")
    arguments = parser.parse_args()
    os.nice(arguments.nice)
    chance, say = random.Random(arguments.seed), teller()
    say("importing the libraries, then the node starts")
    local = arguments.api == "none"
    settings, answer = (LOCAL, "half_right") if local else APIS[arguments.api]
    victims = [victim for victim in Victim if not (local and victim is Victim.ENGINE)]
    attacks = [(victim, number) for victim in victims for number in SIGNALS for _ in range(arguments.times)]
    chance.shuffle(attacks)
    with (
        tempfile.TemporaryDirectory(prefix="node-attacks-") as root,
        api_process(latency=0.05, answer=f"tests.support.teachers:{answer}") as server,
    ):
        node = attacked(Path(root), settings.replace("BASE_URL", server.base_url), chance, say)
        with node.swarm, node.twin:
            node.run(attacks, frozen_s=arguments.frozen)
            node.stop()
            books = server.settled()
            node.compare()
            if arguments.api in ("answers", "both"):
                node.faults += money_faults(node.node.files, books)
            elif not local:
                node.faults += bill_faults(node.node.files, books, free=arguments.api == "hints")
        report(node.done)
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in node.faults) or "Nothing was lost, doubled or left behind."))
    return 1 if node.faults else 0


if __name__ == "__main__":
    sys.exit(main())
