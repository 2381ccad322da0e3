"""A storm over a swarm of real nodes: what it does to them, and what is left of them afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.chaos import evidence
from tests.support.chaos.disturber import Disturber, What, plan
from tests.support.chaos.nodes import Swarm, until
from tests.support.chaos.observer import Stored, collect

SMALL = """
[node]
fresh = false
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
"""A node that plays several rounds a second, and does not end by itself."""
LEARNED = (
    SMALL.replace("max_completion_tokens = 8", "max_completion_tokens = 16")
    + """
[model]
name = "{model}"
threads = 1
"""
)
"""The same with a model that knows something."""
PATIENCE_S = 120.0
"""For what takes seconds on a machine with nothing else to do."""
STUCK_S = 30.0
"""No more may pass between two rounds of a node that lives and is not frozen, whatever its peers do."""
GONE_S = 3.0
"""In which all that belongs to a stopped node is gone."""
LOOK_S = 5.0
"""For which the observer looks at what is stored."""


@dataclass
class Outcome:
    """What a storm did."""

    acts: Counter[What]
    seconds: float
    """How long it lasted."""
    rounds: list[int]
    lives: list[int]
    deaths: list[int]
    pauses: list[float]
    """Of each node, the longest between two rounds (see ``evidence.longest_pause``)."""
    heard: dict[evidence.Pair, float]
    """Seconds from when everybody went on after the storm until who used what whom wrote since."""
    stored: Stored
    faults: list[str] = field(default_factory=list)
    """What must not be. Empty: all went well."""


def teller() -> Callable[[str], None]:
    """Return what prints sentences with the seconds since now."""
    begun = time.monotonic()
    return lambda text: print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)


def gather(swarm: Swarm, say: Callable[[str], None]) -> None:
    """Found the swarm, start its nodes, and wait until everybody learns from everybody."""
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
    """Let a storm pass over a swarm that ``gather`` made, stop all nodes, and say what came of them.

    Args:
        scratch: where the observer lives.
        seed: of the storm.
        seconds: how long it lasts.
        every: seconds between two acts, on average.
        longest: seconds for which a node is frozen or away, at most.
        look_every: seconds between two looks at what is stored; None: one look, at the end.
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
