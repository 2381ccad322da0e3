"""Separate machines for tests: home directories with their own nodes, which are forked (see ``forked_swarmctl``)."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from tests.support.chaos.forked import enter
from tests.support.command_line import write_profile
from tests.support.forked_swarmctl import ForkedSwarmctl, swarmctl
from tests.support.patience import Patience

SMALL = """
extends = "demo"
[game]
rounds = 0
groups = 2
[warmup]
steps = 120
[eval]
questions = 8
[checkpoint]
every = 10
"""


class Machine:
    """A separate home and directory for temporary files, and the nodes that run there."""

    def __init__(self, home: Path, namespace: str | None = None, profile: str = SMALL) -> None:
        """
        Args:
            namespace: its network; None: the loopback interface of the machine that runs the tests.
            profile: its default profile (TOML), without the table [swarm].
        """
        self.home = home
        self.running: dict[str, ForkedSwarmctl] = {}
        self.ended: list[ForkedSwarmctl] = []
        write_profile(home, "default", f"{profile}[swarm]\nloopback = {str(namespace is None).lower()}\n")
        (home / "tmp").mkdir()
        self._environment = {"SWARMCTL_HOME": str(home), "TMPDIR": str(home / "tmp")}
        self._before = None if namespace is None else partial(enter, namespace)

    def files(self, node: str) -> NodeFiles:
        return NodeFiles(self.home / "nodes" / node)

    def do(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return swarmctl(*arguments, before=self._before, **self._environment)

    def start(self, node: str, *arguments: str) -> None:
        place = self.home / f"{node}-{len(self.ended)}"
        place.mkdir()
        words = ("run", "--node", node, *arguments)
        self.running[node] = ForkedSwarmctl(words, self._environment, place, pause_s=0.2, before=self._before)

    def end(self, node: str, number: signal.Signals) -> tuple[int, str]:
        """Signal a node to stop; return its exit code and stderr."""
        self.running[node].send_signal(number)
        return self.await_end(node)

    def stop(self) -> None:
        """Stop all its nodes."""
        for node in list(self.running):
            self.end(node, signal.SIGTERM)

    def await_end(self, node: str, timeout: float = 60) -> tuple[int, str]:
        """Wait for a node's end; return its exit code and stderr."""
        process = self.running.pop(node)
        self.ended.append(process)
        _, output = process.communicate(timeout)
        return process.wait(), output

    def events(self, node: str) -> list[dict[str, object]]:
        with suppress(FileNotFoundError):
            lines = self.files(node).events.read_bytes().split(b"\n")
            return [json.loads(line) for line in lines if line.endswith(b"}")]
        return []

    def learned(self, node: str) -> int:
        """Return the number of peers' completions that a node has learned from."""
        return sum(
            int(str(event["count"]))
            for event in self.events(node)
            if event["event"] == "rollouts" and event["source"] == "peer"
        )

    def wait(self, node: str, condition: Callable[[], bool], seconds: float = 240) -> None:
        patience = Patience(seconds)
        while not condition():
            process = self.running[node]
            if process.poll() is not None:
                pytest.fail(f"node {node} ended: {process.communicate()}")
            assert not patience.is_over(), f"node {node}: the condition was never met"
            time.sleep(0.1)
