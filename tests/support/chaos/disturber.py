"""Disturb a swarm: plan failures from a seed, and carry them out on real processes."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import psutil

from tests.support.chaos.nodes import Node, Swarm, daemon_of
from tests.support.patience import Patience

T = TypeVar("T")


class What(StrEnum):
    """The failures that can happen to a node."""

    KILL_TRAINER = "trainer killed"
    KILL_DAEMON = "p2pd killed"
    KILL_ALL = "all killed at once"
    FREEZE_TRAINER = "trainer frozen"
    FREEZE_DAEMON = "p2pd frozen"
    FREEZE_ALL = "trainer and p2pd frozen"
    RESTART = "stopped and started"


DEADLY = (What.KILL_TRAINER, What.KILL_ALL)


@dataclass(frozen=True, slots=True)
class Act:
    """One failure of one node."""

    at: float
    """Seconds after the start."""
    node: int
    what: What
    seconds: float
    """How long the node stays frozen or stopped."""


def plan(seed: int, *, nodes: int, seconds: float, every: float, longest: float) -> list[Act]:
    """Return acts over ``seconds``, on average one in ``every``, none of which lasts longer than ``longest``.

    Every failure happens once before any happens twice, if time allows. The first node, through which the others
    joined, is killed before any other, and again each time every node has had a turn.
    """
    chance = random.Random(seed)
    kinds, victims = _turns(list(What), chance), _turns(range(nodes), chance)
    acts = [Act(chance.uniform(0, 0.5) * every, 0, chance.choice(DEADLY), chance.uniform(0, longest))]
    at = acts[0].at
    for number in itertools.count(1):
        at += chance.uniform(0.5, 1.5) * every
        if at >= seconds:
            return acts
        founder = number % (nodes + 1) == 0
        what = chance.choice(DEADLY) if founder else next(kinds)
        acts.append(Act(at, 0 if founder else next(victims), what, chance.uniform(0.1, 1) * longest))
    raise AssertionError


def _turns(items: Sequence[T], chance: random.Random) -> Iterator[T]:
    """Yield the items endlessly, each once before any is repeated."""
    while True:
        yield from chance.sample(items, len(items))


class Disturber:
    """Carries out acts."""

    def __init__(self, swarm: Swarm, say: Callable[[str], None] = lambda _: None) -> None:
        self._swarm, self._say = swarm, say
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._busy: set[str] = set()
        self.done: Counter[What] = Counter()

    def run(self, acts: Sequence[Act]) -> None:
        """Carry out the acts and undo them: at the end every node has been restarted and none is frozen.

        If a node is still affected by an earlier act, the act hits the next node instead.
        """
        begun = time.monotonic()
        for act in acts:
            self._later(begun + act.at, lambda act=act: self._carry_out(act))  # type: ignore[misc]
        while self._due:
            if self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            self._swarm.watch()
            time.sleep(0.1)

    def _later(self, at: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), do))

    def _carry_out(self, act: Act) -> None:
        nodes = self._swarm.nodes
        order = [nodes[(act.node + step) % len(nodes)] for step in range(len(nodes))]
        node = next((node for node in order if node.name not in self._busy), None)
        if node is None or node.life is None:
            return
        self._say(f"{node.name}: {act.what} ({act.seconds:.1f} s)")
        self._busy.add(node.name)
        self.done[act.what] += 1
        self._swarm.watch()
        begun = time.time()
        trainer = node.life.trainer()
        frozen = {
            What.FREEZE_TRAINER: [trainer],
            What.FREEZE_DAEMON: [daemon_of(trainer)],
            What.FREEZE_ALL: [trainer, daemon_of(trainer)],
        }.get(act.what)
        if frozen is not None:
            _signal(frozen, signal.SIGSTOP)
            self._later(time.monotonic() + act.seconds, lambda: self._thaw(node, frozen, begun))
            return
        if act.what is What.KILL_DAEMON:
            _signal([daemon_of(trainer)], signal.SIGKILL)
            self._busy.discard(node.name)
            return
        if act.what is What.RESTART:
            node.stops += 1
            node.life.ask()
        else:
            node.deaths += 1
            if act.what is What.KILL_ALL:
                node.life.kill()
            else:
                _signal([trainer], signal.SIGKILL)
        self._later(time.monotonic() + act.seconds, lambda: self._revive(node, begun, Patience()))

    def _thaw(self, node: Node, frozen: Sequence[psutil.Process | None], begun: float) -> None:
        _signal(frozen, signal.SIGCONT)
        node.away.append((begun, time.time()))
        self._busy.discard(node.name)

    def _revive(self, node: Node, begun: float, patience: Patience) -> None:
        assert node.life is not None
        if not node.life.ended:  # the supervisor has not noticed yet that its trainer is dead
            if patience.is_over():
                raise TimeoutError(f"{node.name} does not end")
            self._later(time.monotonic() + 0.2, lambda: self._revive(node, begun, patience))
            return
        self._swarm.start(node)
        node.away.append((begun, time.time()))
        self._busy.discard(node.name)


def _signal(processes: Sequence[psutil.Process | None], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process is not None:
                process.send_signal(number)
