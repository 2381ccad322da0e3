"""Kill and freeze three supervised nodes of a swarm, and make their clocks jump, at random moments."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.chaos import evidence
from tests.support.chaos.attacks import PATIENCE_S, Victim, find, output
from tests.support.chaos.nodes import Node
from tests.support.chaos.patience import during, until
from tests.support.chaos.storm import gather
from tests.support.chaos.supervised import Clock, SupervisedSwarm

NAMES = ("ada", "bert", "cleo")
LONGEST_FREEZE_S = 8.0
JUMP_S = 2 * 3600


def storm(root: Path, settings: str, chance: random.Random, acts: int, say: Callable[[str], None]) -> list[str]:
    """Disturb three nodes ``acts`` times. Return what went wrong."""
    with SupervisedSwarm(root, NAMES, settings=settings) as swarm:
        clocks = {name: Clock(root / f"clock-{name}") for name in NAMES}
        swarm.variables = {name: clock.variables for name, clock in clocks.items()}
        gather(swarm, say)
        for number in range(acts):
            node = swarm.nodes[number % len(NAMES)]
            if number % 10 == 9:
                say(f"{node.name}: clock")
                clocks[node.name].set(JUMP_S)
                time.sleep(chance.uniform(3, 10))
                clocks[node.name].set(0)
            else:
                _attack(swarm, node, chance, say)
            during(chance.uniform(0.5, 4), swarm.watch)
        return _aftermath(swarm, say)


def _attack(swarm: SupervisedSwarm, node: Node, chance: random.Random, say: Callable[[str], None]) -> None:
    victim = chance.choice([Victim.CLI, Victim.TRAINER, Victim.VERIFIER, Victim.MAKER, Victim.DAEMON])
    number = signal.SIGKILL if chance.random() < 0.75 else signal.SIGSTOP
    if not until(lambda: find(node, victim) is not None, PATIENCE_S, swarm.watch):  # it may be being replaced
        raise AssertionError(f"{node.name} has no {victim}: {output(node)[-1500:]}")
    process = find(node, victim)
    if process is None:
        return
    say(f"{node.name}: {victim} {number.name}")
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
        if number is signal.SIGSTOP:
            begun = time.time()
            during(chance.uniform(0.1, 1) * LONGEST_FREEZE_S, swarm.watch)
            process.send_signal(signal.SIGCONT)
            node.away.append((begun, time.time()))
    if victim is Victim.CLI and number is signal.SIGKILL:
        assert node.life is not None
        if not node.life.wait(PATIENCE_S) or not until(lambda: _left(swarm, node) == 0, PATIENCE_S, swarm.watch):
            raise AssertionError(f"{node.name} does not end after its supervisor was killed")
        node.deaths += 1
        swarm.start(node)
    elif number is signal.SIGKILL and victim is Victim.TRAINER:
        node.deaths += 1


def _left(swarm: SupervisedSwarm, node: Node) -> int:
    home = str(node.home)
    found = 0
    for process in swarm.left_processes():
        with contextlib.suppress(psutil.Error):
            found += process.environ().get("SWARMCTL_HOME") == home
    return found


def _aftermath(swarm: SupervisedSwarm, say: Callable[[str], None]) -> list[str]:
    since, reached = time.time(), [node.rounds() for node in swarm.nodes]
    faults = []

    def goes_on() -> bool:
        return all(node.rounds() > rounds for node, rounds in zip(swarm.nodes, reached, strict=True))

    if not until(goes_on, PATIENCE_S, swarm.watch):
        faults += [f"{node.name} does not go on: {output(node)[-1500:]}" for node in swarm.nodes]
    wanted, charter = evidence.pairs(swarm.nodes), swarm.invitation.charter
    if not until(lambda: wanted <= evidence.hearing(swarm.nodes, charter, since).keys(), PATIENCE_S, swarm.watch):
        heard = evidence.hearing(swarm.nodes, charter, since).keys()
        faults.append(f"not everybody learns from everybody again: {sorted(wanted - heard)}")
    times = sorted(evidence.hearing(swarm.nodes, charter, since).values())
    for node in swarm.nodes:
        swarm.stop(node, PATIENCE_S)
    until(lambda: not swarm.left_processes() and not swarm.left_sockets(), 10)
    faults += [f"left running: {process}" for process in swarm.left_processes()]
    faults += [f"left: {path}" for path in swarm.left_sockets()]
    for node in swarm.nodes:
        faults += evidence.faults(node, charter)
        say(f"{node.name}: {node.rounds()} rounds, {node.deaths} deaths, {evidence.lives(node)} starts")
    if times:
        say(
            f"all pairs learn from each other again: the first after {times[0]:.1f} s, the last after {times[-1]:.1f} s"
        )
    return faults
