"""Run a series of failures against a swarm of real nodes, and check what remains afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.chaos import evidence
from tests.support.chaos.disturber import Disturber, What, plan
from tests.support.chaos.nodes import Swarm
from tests.support.chaos.observer import Stored, collect
from tests.support.chaos.patience import until

SMALL = """
[warmup]
steps = 0
[eval]
every = 0
questions = 4
[game]
rounds = 0
groups = 4
group_size = 4
[generation]
max_completion_tokens = 8
[checkpoint]
every = 25
keep = 2
"""
"""Settings of a node that plays several rounds per second and does not end by itself."""
LEARNED = (
    SMALL.replace("max_completion_tokens = 8", "max_completion_tokens = 16")
    + """
[model]
name = "{model}"
threads = 1
"""
)
"""The same with a warmed-up model."""
PATIENCE_S = 120.0
"""Time limit for things that take seconds on an idle machine."""
STUCK_S = 30.0
"""Longest allowed time between two rounds of a running node that is not frozen, whatever its peers do."""
GONE_S = 3.0
"""Time within which everything of a stopped node must be gone."""
LOOK_S = 5.0
"""How long the observer reads the stored records."""


@dataclass
class Outcome:
    """The results of a storm."""

    acts: Counter[What]
    seconds: float
    """Its duration."""
    rounds: list[int]
    lives: list[int]
    deaths: list[int]
    pauses: list[float]
    """By node: the longest time between two rounds (see ``evidence.longest_pause``)."""
    heard: dict[evidence.Pair, float]
    """By (reader, author): seconds from the end of the storm until the reader used text that the author wrote since."""
    stored: Stored
    faults: list[str] = field(default_factory=list)
    """Errors found. Empty if all went well."""


def teller() -> Callable[[str], None]:
    """Return a function that prints a sentence with the seconds since now."""
    begun = time.monotonic()
    return lambda text: print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)


def gather(swarm: Swarm, say: Callable[[str], None]) -> None:
    """Create the swarm, start its nodes, and wait until every node learns from every other."""
    swarm.found()
    swarm.start(swarm.founder)
    begun = time.time()
    assert until(lambda: swarm.founder.rounds() > 0, PATIENCE_S, swarm.watch), "the founder does not start"
    say("the founder plays")
    for node in swarm.nodes[1:]:
        swarm.start(node)
    assert _everybody_hears(swarm, begun, PATIENCE_S), "the nodes do not find each other"
    say("everybody learns from everybody")


def weather(
    swarm: Swarm,
    scratch: Path,
    *,
    seed: int,
    seconds: float,
    every: float,
    longest: float,
    look_every: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a storm against a swarm that ``gather`` made, stop all nodes, and return the results.

    Args:
        scratch: the observer's directory.
        seed: the storm's seed.
        seconds: its duration.
        every: average seconds between two acts.
        longest: most seconds for which a node is frozen or stopped.
        look_every: seconds between two checks of the stored records; None: one check at the end.
    """
    disturber, stored, over = Disturber(swarm, say), Stored(), threading.Event()
    looks = threading.Thread(target=_look_on, args=(swarm, scratch, look_every, stored, over))
    begun = time.time()
    if look_every is not None:
        looks.start()
    try:
        disturber.run(plan(seed, nodes=len(swarm.nodes), seconds=seconds, every=every, longest=longest))
    finally:
        over.set()
        if look_every is not None:
            looks.join()
    raged, reached = time.time() - begun, [node.rounds() for node in swarm.nodes]
    say("the storm is over")
    faults = []
    if not until(
        lambda: all(n.rounds() > r for n, r in zip(swarm.nodes, reached, strict=True)), PATIENCE_S, swarm.watch
    ):
        faults.append("not everybody goes on after the storm")
    quiet = time.time()
    say("everybody goes on")
    faults += [] if _everybody_hears(swarm, quiet, PATIENCE_S) else ["not everybody hears everybody after the storm"]
    heard = evidence.hearing(swarm.nodes, swarm.invitation.charter, quiet)
    say("everybody learns from everybody again" if not faults else faults[0])
    collect(scratch, swarm.invitation, LOOK_S, stored)
    say(f"{len(stored.records)} records looked at")
    if missing := {node.peer for node in swarm.nodes} - stored.peers:
        faults.append(f"nothing is stored of {len(missing)} peers")
    for node in swarm.nodes:
        swarm.stop(node)
    until(lambda: not swarm.left_processes() and not swarm.left_sockets(), GONE_S)
    say("all have stopped")
    faults += [f"a process is left: {process}" for process in swarm.left_processes()]
    faults += [f"a socket is left: {path}" for path in swarm.left_sockets()]
    faults += stored.faults()
    pauses = [evidence.longest_pause(node) for node in swarm.nodes]
    for node, pause in zip(swarm.nodes, pauses, strict=True):
        faults += evidence.faults(node, swarm.invitation.charter)
        if pause > STUCK_S:
            faults.append(f"{node.name}: {pause:.0f} s without a round")
    return Outcome(
        acts=disturber.done,
        seconds=raged,
        rounds=[node.rounds() for node in swarm.nodes],
        lives=[evidence.lives(node) for node in swarm.nodes],
        deaths=[node.deaths for node in swarm.nodes],
        pauses=pauses,
        heard=heard,
        stored=stored,
        faults=faults,
    )


def _everybody_hears(swarm: Swarm, since: float, seconds: float) -> bool:
    wanted = evidence.pairs(swarm.nodes)
    return until(
        lambda: wanted <= evidence.hearing(swarm.nodes, swarm.invitation.charter, since).keys(), seconds, swarm.watch
    )


def _look_on(swarm: Swarm, scratch: Path, every: float | None, stored: Stored, over: threading.Event) -> None:
    while not over.wait(every):
        collect(scratch, swarm.invitation, LOOK_S, stored)
