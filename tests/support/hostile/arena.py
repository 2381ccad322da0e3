"""A small swarm of real nodes that train, each in a separate process, and what an outside observer can see of them."""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.processes.progress import ProcessClock
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.charter import Charter, CharterTask
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.tasks.base import Question, Split, Tasks
from hivemind_exp.tasks.mixture import Mixture
from tests.support.patience import joined
from tests.support.restarts import processes

GROUP = 8
GROUPS = 8
PAUSE_S = 0.5
SLOW_S = 2.0
"""Pauses before each round: a tiny model would finish before it could be attacked or hear from its peers. The longer
one applies to slow nodes until ``go_on`` is called."""
EVEN_ROUNDS = 12
"""Rounds after which each pause of a slow node is twice as long as the one before. So a node on a busy machine still
has rounds to play when ``go_on`` is called, however late that is."""
_LOOK_S = 3.0
"""Seconds between two looks at the nodes' processes. The kernel walks all pages to count a process's own memory."""
GO = "go"
"""A file next to the nodes: they start to play once it exists."""
ON = "on"
"""A file next to the nodes: slow ones speed up once it exists."""
PRICE = {"input": 1.0, "output": 4.0}
"""The teacher's price, in dollars per million tokens."""
CAP = 1.0
TASKS = (
    ("spell_backward", {"min_word_len": 3, "max_word_len": 4}, 900_000),
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, 100_000),
)
"""Name, parameters, and weight in parts per million."""


def make_tasks(charter: str, secret: bytes = b"s" * 32) -> Mixture:
    """Return the swarm's tasks, made in the same way as by any member."""
    specs = [TaskConfig(name=name, params=params, weight=ppm / 1e6) for name, params, ppm in TASKS]
    return Mixture(specs, charter=charter.encode(), secret=secret, heldout=0, verifiers=1)


def found_swarm(founder: Identity) -> Charter:
    """Return a swarm's charter for these tasks."""
    with closing(make_tasks("")) as tasks:
        pinned = tuple(
            CharterTask(
                label=fact.label,
                name=name,
                params=params,
                check="exact",
                weight_ppm=ppm,
                version=fact.version,
                digest=tasks.digest(fact.label),
                size=None,
                sha256=None,
            )
            for fact, (name, params, ppm) in zip(tasks.facts(), TASKS, strict=True)
        )
    return Charter(
        name="arena",
        founder=founder.peer_id,
        t0=int(time.time()) - 600,
        nonce=secrets.token_hex(16),
        game="sampling",
        group_size=GROUP,
        stage_time=60,
        is_open=False,
        tasks=pinned,
    )


def make_base(root: Path, *, steps: int, seed: int) -> None:
    """Save a model to ``root`` that knows the format and spells some words."""
    import torch

    from hivemind_exp.config import WarmupConfig
    from hivemind_exp.game.sampling.game import build_prompts
    from hivemind_exp.models.tiny import build_model, build_tokenizer, warm_up

    torch.set_num_threads(1)

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    with closing(
        Mixture([TaskConfig(name=TASKS[0][0], params=TASKS[0][1])], charter=b"", secret=b"", heldout=0)
    ) as own:
        prompts = build_prompts(own.questions("train", -1, 4096), tokenizer)
    config = WarmupConfig(steps=steps, batch=64, learning_rate=2e-3)
    warm_up(model, tokenizer, prompts, config, seed=seed, progress=lambda *_: None, should_stop=lambda: False)
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)


@dataclass(slots=True)
class Peak:
    """Peak values of a node's processes while it ran."""

    bytes: int = 0
    """Memory of trainer, daemon and workers together, without what they share with other processes: a forked trainer
    counts its parent's pages as its own as it touches them."""
    threads: int = 0
    """Of the trainer."""
    processes: int = 0


@dataclass(slots=True)
class Honest:
    """One honest node: its directory, its process, and its peak values."""

    root: Path
    config: Config
    process: ForkServerProcess | None = None
    peak: Peak = field(default_factory=Peak)
    family: set[psutil.Process] = field(default_factory=set)
    """All its processes that were ever seen."""

    @property
    def files(self) -> NodeFiles:
        return NodeFiles(self.root)

    @property
    def peer_id(self) -> str:
        return Identity.load(self.files.key).peer_id

    def addresses(self) -> tuple[str, ...]:
        """Like ``SwarmNode.addresses``."""
        port = (self.root / "listen").read_text()
        return (f"/ip4/127.0.0.1/tcp/{port}/p2p/{self.peer_id}",)

    def events(self, name: str) -> list[dict[str, Any]]:
        if not self.files.events.exists():
            return []
        lines = self.files.events.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    @property
    def left(self) -> list[psutil.Process]:
        """Its processes that are still running."""
        return [process for process in self.family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    @property
    def joined(self) -> bool:
        """Whether it has joined its swarm and could play."""
        return bool(self.events("start"))

    @property
    def accuracy(self) -> tuple[float, float]:
        """Accuracy on held-out questions, before and after."""
        seen = [event["accuracy"] for event in self.events("eval")]
        return seen[0], seen[-1]

    @property
    def spent(self) -> float:
        """Dollars."""
        return float(sum(event["usd"] for event in self.events("spend")))

    def unused(self) -> dict[str, int]:
        """Number of peers' groups and bundles it did not use, by reason."""
        found: dict[str, int] = {}
        for event in self.events("share"):
            for why, count in event["unused"].items():
                found[why] = found.get(why, 0) + count
        return found

    def lessons(self) -> dict[str, int]:
        """Return the number of each peer's completions that had weight in its steps."""
        found: dict[str, int] = {}
        with closing(Journal(self.files.journal, self.config.swarm.charter or "")) as journal:
            for lesson in journal.contributions(10**9):
                if lesson.kind is Kind.PEER:
                    peer = lesson.source.partition(":")[0]
                    found[peer] = found.get(peer, 0) + lesson.completions
        return found

    def said(self) -> list[str]:
        """Return its own completions, in order."""
        return self._texts("kind = 'policy'")

    def heard(self, since: float = 0.0) -> list[tuple[str, str, float]]:
        """Return peer, text and outcome of each completion drawn from peers. ``since``: Unix seconds."""
        query = "SELECT source, text, outcome FROM completions WHERE kind = 'peer' AND t >= ?"
        with closing(sqlite3.connect(self.files.journal)) as db:
            return db.execute(query, (since,)).fetchall()

    def _texts(self, which: str) -> list[str]:
        with closing(sqlite3.connect(self.files.journal)) as db:
            return [text for (text,) in db.execute(f"SELECT text FROM completions WHERE {which} ORDER BY round, t")]

    def filtered(self) -> int:
        """Return the number of rows that the likelihood filter left out."""
        return sum(event.get("filtered") or 0 for event in self.events("step"))


class Arena:
    """Honest nodes of one swarm. A context manager: its end stops everything that runs.

    ``slow``: whether nodes pause longer before each round until ``go_on``.
    """

    def __init__(self, root: Path, rules: Charter, founder: Identity, base: Path, *, slow: bool = False) -> None:
        root.mkdir(parents=True)
        self._slow = slow
        self.root, self.rules = root, rules
        self._envelope, self._base = rules.seal(founder), base
        self.nodes: list[Honest] = []
        self._watching = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def add(self, name: str, *, seed: int, rounds: int, **sections: Mapping[str, Any]) -> Honest:
        """Add a node. Nodes with equal seeds start equal and get the same held-out questions."""
        root = self.root / name
        files = NodeFiles(root)
        files.swarm.mkdir(parents=True)
        Identity.create(files.key)
        files.charter.write_bytes(self._envelope)
        (root / "secret").write_bytes(derive_seed(seed, "secret").to_bytes(8, "big") * 4)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (root / "listen").write_text(str(port))
        invited = tuple(address for node in self.nodes for address in node.addresses())
        swarm = {"join": str(Invitation(self.rules.id, invited)), "loopback": True, "port": port}
        config: dict[str, Any] = {
            "node": {"name": name, "seed": seed},
            "model": {"name": str(self._base), "device": "cpu", "threads": 1},
            "tasks": ["spell_backward"],
            "game": {"rounds": rounds, "groups": GROUPS},
            "prompt": {"style": "tags"},  # what the model was trained for; a few questions may suggest another style
            "generation": {"max_prompt_tokens": 96, "max_completion_tokens": 32, "batch": 128},
            "train": {"learning_rate": 1e-4, "micro_batch": 128},
            "eval": {"every": 0, "questions": 100},
            "checkpoint": {"every": 100_000},
            "swarm": swarm,
            **sections,
        }
        self.nodes.append(Honest(root, Config.model_validate(config)))
        return self.nodes[-1]

    def start(self) -> None:
        """Start all nodes."""
        context = processes()
        for node in self.nodes:
            node.process = context.Process(target=play, args=(node.root, node.config, self._slow))
            node.process.start()
        self._watch.start()

    def begin(self, seconds: float) -> None:
        """Start the first round once all nodes have joined."""
        self.wait(seconds, "join")
        (self.root / GO).touch()

    def go_on(self) -> None:
        """Make the nodes play their remaining rounds faster."""
        (self.root / ON).touch()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.set()
        running = [node.process for node in self.nodes if node.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            joined(process, 10)
            process.kill()
            process.join(5)

    @property
    def running(self) -> bool:
        return any(node.process is not None and node.process.is_alive() for node in self.nodes)

    def wait(self, seconds: float, until: str = "end") -> None:
        """Wait until all nodes have joined ("join") or ended. ``seconds``: as for ``until``."""
        self.until(lambda: not self.running if until == "end" else all(node.joined for node in self.nodes), seconds)

    def until(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait for a condition; fail if it does not come true in ``seconds`` in which the nodes were able to act."""
        able = []
        for node in self.nodes:
            with suppress(psutil.NoSuchProcess):  # it has played its last round
                assert node.process is not None
                assert node.process.pid is not None
                able.append(ProcessClock(node.process.pid))
        while not condition():
            used = min((each.look() for each in able), default=seconds)
            assert used < seconds, [(node.root.name, node.events("error")) for node in self.nodes]
            for node in self.nodes:
                assert node.process is not None
                assert node.process.exitcode in (None, 0), node.files.log.read_text()[-3000:]
            time.sleep(0.1)

    def _look(self) -> None:
        while not self._watching.wait(_LOOK_S):
            for node in self.nodes:
                _measure(node)


def _measure(node: Honest) -> None:
    try:
        assert node.process is not None
        assert node.process.pid is not None
        trainer = psutil.Process(node.process.pid)
        family = [trainer, *trainer.children(recursive=True)]
        node.family.update(family)
        peak = node.peak
        peak.threads = max(peak.threads, trainer.num_threads())
        peak.processes = max(peak.processes, len(family))
        peak.bytes = max(peak.bytes, sum(map(_own_bytes, family)))
    except psutil.NoSuchProcess:
        return


def _own_bytes(member: psutil.Process) -> int:
    """Return the memory that only this process uses. A process with keys shows it to root alone."""
    try:
        return int(member.memory_full_info().uss)
    except psutil.AccessDenied:
        return int(member.memory_info().rss)


def wait_for(path: Path, seconds: float = math.inf) -> None:
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)


def play(root: Path, config: Config, slow: bool) -> None:
    """Run a node to its last round, in a separate process, with its output in its log."""
    import torch

    from hivemind_exp.event_log import EventLog
    from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture
    from tests.support.forked_engines import forked_engine

    files = NodeFiles(root)
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)

    def make_tasks(config: Config, files: NodeFiles) -> Tasks:
        tasks = make_mixture(config, files)
        asked = tasks.questions

        def unhurried(split: Split, round: int, count: int) -> list[Question]:
            if split == "train":
                wait_for(root.parent / GO)  # otherwise one of them could finish before the other starts
                own = count == GROUPS  # otherwise a question of a peer, whose rounds may be far ahead
                if slow:
                    wait_for(root.parent / ON, SLOW_S * 2 ** max(0, round - EVEN_ROUNDS if own else 0))
                time.sleep(PAUSE_S if own else 0.0)
            return asked(split, round, count)

        tasks.questions = unhurried  # type: ignore[method-assign]
        return tasks

    with forked_engine(config):
        GRPORunner(config, files, EventLog(files.events), make_tasks=make_tasks).run()
