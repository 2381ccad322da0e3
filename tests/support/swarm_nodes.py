"""Real nodes in separate processes that connect over the real protocol on loopback."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from hivemind_exp.config import Config
from hivemind_exp.event_log import EventLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.tasks.base import Tasks
from tests.support.charters import charter, words
from tests.support.nodes import PacedRewards, make_config
from tests.support.patience import joined
from tests.support.restarts import processes

PATIENCE_S = 240.0
"""Seconds that nodes may take to learn from each other on a busy machine."""


Make = Callable[[Config, NodeFiles], Tasks]


def found(root: Path, **terms: Any) -> tuple[Charter, Invitation]:
    """Create a swarm and its first node in ``root``; ``terms``: fields of its charter."""
    root.mkdir(parents=True)
    files = NodeFiles(root)
    identity = Identity.create(files.key)
    rules = charter(
        founder=identity.peer_id,
        nonce=secrets.token_hex(16),
        t0=int(time.time()) - 60,
        group_size=4,
        **{"tasks": (words(params={}, weight_ppm=1_000_000),), **terms},
    )
    files.charter.write_bytes(rules.seal(identity))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files.swarm.mkdir()
    (root / "listen").write_text(str(port))
    return rules, Invitation(rules.id, (f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}",))


def settings(root: Path, invitation: Invitation, **sections: Any) -> Config:
    """Return the configuration of a node that joins. The creator listens at the address in the invitation."""
    listen = root / "listen"
    swarm = {"join": str(invitation), "loopback": True, "port": int(listen.read_text()) if listen.exists() else 0}
    return make_config(
        node={"name": root.name, "seed": sum(root.name.encode())},
        game={"rounds": 0, "groups": 4, **sections.pop("game", {})},
        swarm={**swarm, **sections.pop("swarm", {})},
        checkpoint={"every": 50, **sections.pop("checkpoint", {})},
        eval={"every": 0, **sections.pop("eval", {})},
        **sections,
    )


def play(
    root: Path, invitation: Invitation, sections: dict[str, Any], tasks: Callable[[], Tasks], make: Make | None = None
) -> None:
    """Run a node in this process until SIGTERM. ``make`` replaces ``tasks``."""
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log = EventLog(root / "events.jsonl")
    runner = GRPORunner(
        settings(root, invitation, **sections),
        NodeFiles(root),
        log,
        stop=stop,
        make_tasks=make or (lambda *_: tasks()),
    )
    try:
        runner.run()
    except StopRequested:
        os._exit(0)


@contextmanager
def playing(
    nodes_at: Mapping[Path, dict[str, Any]],
    invitation: Invitation,
    tasks: Callable[[], Tasks] = PacedRewards,
    make: Make | None = None,
) -> Iterator[list[ForkServerProcess]]:
    """Run nodes (directory: sections of its configuration) until the block ends; none is left then.

    ``tasks`` makes their tasks, or ``make`` from their configuration and files. Both can be pickled.
    """
    context = processes()
    nodes = [
        context.Process(target=play, args=(root, invitation, more, tasks, make)) for root, more in nodes_at.items()
    ]
    for node in nodes:
        node.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            joined(node, 20)
            node.kill()


def peer_of(root: Path) -> str:
    """Return a node's peer id."""
    return Identity.load(NodeFiles(root).key).peer_id


def events(root: Path, name: str) -> list[dict[str, Any]]:
    """Return a node's events with this name."""
    path = root / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]
