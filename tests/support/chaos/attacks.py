"""Kill or freeze the processes of one node at random moments, and compare the node with an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.hints import STAGE as HINT_STAGE
from hivemind_exp.offload.judge import STAGE as JUDGE_STAGE
from swarmctl.storage import node_lock
from tests.support.chaos.nodes import CommandSwarm, Node
from tests.support.chaos.patience import during, until
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, accounts
from tests.support.fake_api.ask import digest
from tests.support.fake_api.ledger import Snapshot
from tests.support.restarts import same_weights

LOCAL = """
[warmup]
steps = 60
[eval]
every = 0
questions = 4
[game]
rounds = 0
groups = 4
group_size = 4
partial_credit = true
[generation]
max_completion_tokens = 16
[checkpoint]
every = 10
keep = 2
"""
"""Settings of a node that plays several rounds per second and earns different rewards."""
OFFLOADED = (
    LOCAL
    + f"""
[offload]
provider = "box"
share = 0.5
fallback = []
prices = {{ box = {{ input = {PRICE_IN}, output = {PRICE_OUT} }} }}
limits = {{ usd = "unlimited" }}
[providers.box]
base_url = "BASE_URL"
model = "test-model"
group = "n"
"""
)
"""The same; an API fills half of each group."""
HINTED = (
    LOCAL.replace("[generation]", "[generation]\nmax_prompt_tokens = 160")
    + """
[offload]
provider = "box"
teach = "hints"
share = 0.5
fallback = []
[providers.box]
base_url = "BASE_URL"
model = "test-model"
free = true
"""
)
"""The same; an API writes hints. It is free, because a new run asks a paid one again that was set aside as useless."""
JUDGED = (
    LOCAL
    + f"""
[judge]
provider = "box"
weight = 0.4
[offload]
prices = {{ box = {{ input = {PRICE_IN}, output = {PRICE_OUT} }} }}
limits = {{ usd = "unlimited" }}
[providers.box]
base_url = "BASE_URL"
model = "test-model"
"""
)
"""The same; an API grades the completions."""
BOTH = (
    OFFLOADED
    + """
[judge]
provider = "box"
weight = 0.4
"""
)
"""The same; an API fills half of each group, and grades the other half."""
PATIENCE_S = 120.0
"""Time limit for things that take seconds on an idle machine."""


_OF_API = (HINT_STAGE, JUDGE_STAGE)
"""The stages of hints and grades, which earn no rewards."""


class Victim(StrEnum):
    """A process of a node."""

    CLI = "swarmctl"
    TRAINER = "trainer"
    ENGINE = "API process"
    VERIFIER = "verifier"
    MAKER = "maker"
    DAEMON = "p2pd"


ENDING = (Victim.CLI, Victim.TRAINER)
"""The node ends with these, and is started again. It replaces the others."""


def find(node: Node, victim: Victim) -> psutil.Process | None:
    """Return a node's process of one kind; None if it has none now."""
    trainer = node.life.trainer() if node.life is not None else None
    if trainer is None or victim is Victim.TRAINER:
        return trainer
    if victim is Victim.CLI:
        return trainer.parent()
    for child in trainer.children():
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            if {
                Victim.ENGINE: "hivemind_exp.offload.process.server" in words,
                Victim.VERIFIER: "hivemind_exp.tasks.workers.worker" in words and "verify" in words,
                Victim.MAKER: "hivemind_exp.tasks.workers.worker" in words and "make" in words,
                Victim.DAEMON: child.name() == "p2pd",
            }[victim]:
                return child
    return None


@dataclass
class Attack:
    """One signal to one process, and what came of it."""

    victim: Victim
    number: signal.Signals
    outcome: str = ""
    seconds: float = 0.0
    """Until the node finished a round that began no earlier, without the time for which it was frozen."""


@dataclass
class Attacked:
    """A node that is attacked, and its twin, which is not."""

    swarm: CommandSwarm
    twin: CommandSwarm
    chance: random.Random
    say: Callable[[str], None] = lambda _: None
    done: list[Attack] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ending: tuple[Victim, ...] = ENDING
    """The processes with which the node ends."""

    @property
    def node(self) -> Node:
        return self.swarm.founder

    def run(self, attacks: Sequence[tuple[Victim, signal.Signals]], *, frozen_s: float) -> None:
        """Carry out attacks on the running node, one after the other. ``frozen_s``: longest time of a freeze."""
        for victim, number in attacks:
            self._await_moment()
            self.done.append(self._attack(victim, number, self.chance.uniform(0.1, 1) * frozen_s))
            self.say("{0.victim} {0.number.name}: {0.outcome} ({0.seconds:.1f} s)".format(self.done[-1]))

    def _await_moment(self) -> None:
        """Wait until a few more events were written, and then a little; sometimes a node that starts is hit earlier."""
        if self.chance.random() < 0.8:
            wanted = self.node.rounds() + self.chance.randrange(1, 4)
            self._until(lambda: self.node.rounds() >= wanted, "no more rounds")
        time.sleep(self.chance.uniform(0, 0.5))

    def _attack(self, victim: Victim, number: signal.Signals, frozen_s: float) -> Attack:
        attack = Attack(victim, number)
        process = self._find(victim)
        self.swarm.watch()
        rounds, begun = self.node.rounds(), time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if number is signal.SIGSTOP:
            during(frozen_s, self.swarm.watch, lambda: not process.is_running())
            gone = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            attack.outcome = "replaced while frozen" if gone else "continued"
            begun = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        elif victim in self.ending:
            self.node.deaths += 1
            self._end(victim)
            attack.outcome = "ended, nothing left; resumed"
            begun = time.monotonic()
            self.swarm.start(self.node)
        else:
            attack.outcome = "replaced"
        if self.chance.random() < 0.8 or victim not in self.ending:
            self._until(lambda: self.node.rounds() > rounds + 1, f"no round after {victim} {number.name}")
        attack.seconds = time.monotonic() - begun
        return attack

    def _find(self, victim: Victim) -> psutil.Process:
        """Wait until the node has a process of one kind, which may be replaced just now."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found.extend(filter(None, [find(self.node, victim)]))
            return bool(found)

        self._until(look, f"there is no {victim}")
        return found[-1]

    def _end(self, victim: Victim) -> None:
        """Wait until the node has ended because one of its processes was killed. Nothing may be left of it."""
        assert self.node.life is not None
        self.node.life.wait(PATIENCE_S)
        self._check_gone(f"{victim} killed")

    def _check_gone(self, after: str) -> None:
        held = self.node.files.lock
        if not until(lambda: not self.swarm.left_processes() and not node_lock.is_held(held), PATIENCE_S):
            self.faults.append(
                f"{after}: left running: {[process.cmdline() for process in self.swarm.left_processes()]}"
            )
        if node_lock.is_held(held):
            self.faults.append(f"{after}: the lock is still held")
        if not after.startswith(Victim.CLI) and (sockets := self.swarm.left_sockets()):
            self.faults.append(f"{after}: sockets are left: {sockets}")

    def _until(self, holds: Callable[[], object], fault: str) -> None:
        """Raises AssertionError with the node's output if a condition does not come true, or if the node ends."""
        assert self.node.life is not None

        def over() -> bool:
            return bool(holds()) or self.node.life is None or self.node.life.ended

        if not until(over, PATIENCE_S, self.swarm.watch) or not holds():
            raise AssertionError(f"{fault}; the node said:\n{output(self.node)[-3000:]}")

    def stop(self) -> None:
        """Stop the node as a user does."""
        self.swarm.stop(self.node)
        self._check_gone("stopped")

    def compare(self) -> None:
        """Let the twin play as many rounds as the node has, and compare both."""
        steps = self.node.rounds()
        self.say(f"the node has played {steps} rounds; its twin plays as many")
        twin = self.twin.founder
        profile = twin.home / "profiles" / "chaos.toml"
        profile.write_text(profile.read_text().replace("rounds = 0", f"rounds = {steps}"))
        self.twin.start(twin)
        assert twin.life is not None
        assert twin.life.wait(PATIENCE_S + steps), "the twin does not end"
        if twin.rounds() != steps:
            self.faults.append(f"the twin played {twin.rounds()} rounds instead of {steps}: {output(twin)[-2000:]}")
            return
        self.faults += differences(self.node.files, twin.files, steps)


def attacked(
    root: Path,
    settings: str,
    chance: random.Random,
    say: Callable[[str], None] = lambda _: None,
    kind: type[CommandSwarm] = CommandSwarm,
) -> Attacked:
    """Create a node and its twin, which has the same identity, swarm and secret, and start the node."""
    swarm = kind(root / "attacked", ["ada"], settings=settings)
    swarm.found()
    swarm.founder.files.secret()  # the questions that are held out depend on it
    shutil.copytree(root / "attacked", root / "twin")
    twin = kind(root / "twin", ["ada"], settings=settings)
    twin.invitation = swarm.invitation
    swarm.start(swarm.founder)
    return Attacked(swarm, twin, chance, say)


def output(node: Node) -> str:
    """Return what a node's commands have printed."""
    return (node.home / "output").read_text(encoding="utf-8", errors="replace")


def differences(one: NodeFiles, other: NodeFiles, rounds: int) -> Iterator[str]:
    """Compare the completions, rewards and weights of two nodes."""
    if not same_weights(one.root, other.root):
        yield "the weights differ"
    mine, theirs = completions(one.journal, rounds), completions(other.journal, rounds)
    if mine.keys() != theirs.keys():
        yield f"{len(mine.keys() ^ theirs.keys())} completions are missing"
    wrong = [key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]]
    if wrong:
        yield f"{len(wrong)} completions or rewards differ: {mine[wrong[0]]}, {theirs[wrong[0]]}"
    if not any((reward or 0) > 0 for *_, reward, _ in mine.values()):
        yield "no completion earned a reward, so nothing was tested"
    if unjudged := [key for key, (*_, reward, _) in mine.items() if reward is None and key[1] not in _OF_API]:
        yield f"{len(unjudged)} completions have no reward"


def completions(journal: Path, rounds: int) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return a journal's completions: (round, stage, question, slot) -> (kind, source, text, reward, reason)."""
    with closing(sqlite3.connect(journal)) as db:
        rows = db.execute(
            "SELECT round, stage, question, idx, kind, source, text, outcome, why FROM completions WHERE round < ?",
            (rounds,),
        )
        return {row[:4]: row[4:] for row in rows}


def money_faults(files: NodeFiles, books: Snapshot, apart_from: Sequence[tuple[float, float]] = ()) -> Iterator[str]:
    """Compare a node's journal and ledger with the server's books.

    ``apart_from``: when the node's clock was wrong, (begin, end) in Unix seconds: times in its journal do not count.
    """
    yield from _asked_again(files, books, apart_from)
    yield from bill_faults(files, books)


def bill_faults(files: NodeFiles, books: Snapshot, *, free: bool = False) -> Iterator[str]:
    """Compare a node's ledger with the server's bill, which is nothing if the API is ``free``."""
    ours, bill = sum(accounts(files.ledger).values()), 0.0 if free else books.usd(PRICE_IN, PRICE_OUT)
    if ours < bill - 1e-12:
        yield f"the ledger has {ours:.6f} USD, the bill is {bill:.6f} USD"
    if not books.chats:
        yield "the API was never asked, so nothing was tested"


def _asked_again(files: NodeFiles, books: Snapshot, apart_from: Sequence[tuple[float, float]]) -> Iterator[str]:
    with closing(sqlite3.connect(files.journal)) as db:
        prompts = db.execute(
            "SELECT p.messages, MAX(c.t) FROM prompts p LEFT JOIN completions c ON c.source='box' "
            "AND (p.swarm, p.round, p.stage, p.question) = (c.swarm, c.round, c.stage, c.question) "
            "GROUP BY p.round, p.question"
        ).fetchall()
    answered: dict[str, list[float | None]] = {}  # different rounds may have the same prompt
    for messages, t in prompts:
        answered.setdefault(digest(json.loads(messages)), []).append(t)
    since = {key: max(filter(None, times)) for key, times in answered.items() if None not in times}
    again = [
        chat
        for chat in books.chats
        if chat.started > since.get(chat.digest, chat.started)
        and not any(begin <= chat.started <= end for begin, end in apart_from)
    ]
    if again:
        yield f"{len(again)} prompts were asked again though their completions were in the journal"
    if not since.keys() & {chat.digest for chat in books.chats}:
        yield "no prompt of the journal is in the server's books, so nothing was tested"
