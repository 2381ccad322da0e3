"""A study group over the real wire: by the charter's clock, each shows what the other has published."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import socket
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from hivemind_exp.events import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation
from tests.hivemind_exp.runner.test_swarm import PATIENCE_S, events, peer_of
from tests.support.charters import charter, words
from tests.support.nodes import ChanceRewards, make_config

SLOT = 5


def found(root: Path) -> tuple[Charter, Invitation, int]:
    """Make a swarm that plays study-group, and its first node; return the port that this one listens on, too."""
    root.mkdir(parents=True)
    files = NodeFiles(root)
    identity = Identity.create(files.key)
    rules = charter(
        founder=identity.peer_id,
        nonce=secrets.token_hex(16),
        t0=int(time.time()) - 60,
        game="study-group",
        stage_time=SLOT,
        group_size=4,
        tasks=(words(params={}, weight_ppm=1_000_000),),
    )
    files.charter.write_bytes(rules.seal(identity))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return rules, Invitation(rules.id, (f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}",)), port


def play(root: Path, invitation: Invitation, port: int) -> None:
    """Run a node in a process of its own until it is told to stop."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = make_config(
        node={"name": root.name, "seed": port},
        # What the game is the charter says.
        game={"rounds": 0, "groups": 2},
        generation={"max_prompt_tokens": 700},
        swarm={"join": str(invitation), "loopback": True, "port": port},
        eval={"every": 0},
    )
    log = EventLog(root / "events.jsonl")
    runner = GRPORunner(config, NodeFiles(root), log, stop=stop, make_tasks=lambda *_: ChanceRewards())
    try:
        runner.run()
    except StopRequested:
        os._exit(0)


def shown(root: Path) -> dict[str, set[str]]:
    """Return, for each later stage, the peers whose words stood in a node's prompts."""
    found: dict[str, set[str]] = {"critique": set(), "resolve": set()}
    if NodeFiles(root).journal.exists():
        rows: list[Any] = []
        with closing(sqlite3.connect(NodeFiles(root).journal)) as db, suppress(sqlite3.OperationalError):
            rows = db.execute("SELECT stage, body FROM notes").fetchall()  # where there is such a table yet
        for stage, body in rows:
            notes = json.loads(body)
            found[stage] |= {each["peer"] for each in [*notes["students"], *notes.get("critics", [])]}
    return found


def test_two_nodes_show_each_others_answers_and_critiques(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("one", "two")]
    rules, invitation, port = found(roots[0])
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["hivemind_exp.runner.build_swarm", "tests.support.nodes"])
    nodes = [
        processes.Process(target=play, args=(root, invitation, own)) for root, own in zip(roots, (port, 0), strict=True)
    ]
    try:
        for node in nodes:
            node.start()
        until = time.monotonic() + PATIENCE_S
        both = {True}
        while time.monotonic() < until:
            time.sleep(0.5)
            assert all(node.is_alive() for node in nodes), [events(root, "error") for root in roots]
            others = {
                root: peer_of(other) for root, other in zip(roots, reversed(roots), strict=True) if _has_key(other)
            }
            seen = [others.get(root) in peers for root in roots for peers in shown(root).values()]
            if set(seen) == both:
                break
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.join(20)
            node.kill()
    assert set(seen) == both, "somebody's words were never shown"
    assert {event["stage"] for root in roots for event in events(root, "rollouts")} >= {"answer", "critique"}
    assert not any(event["source"] == "peer" for root in roots for event in events(root, "rollouts"))
    assert NodeFiles(roots[1]).charter.read_bytes() == NodeFiles(roots[0]).charter.read_bytes()
    assert rules.game == "study-group"


def _has_key(root: Path) -> bool:
    """Whether a node has its identity, which it has before its journal."""
    return NodeFiles(root).journal.exists()
