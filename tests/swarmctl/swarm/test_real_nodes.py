"""Three real nodes on one machine, with two homes to simulate two machines: create, join, kill, resume.

They are forked (see ``forked_swarmctl``).
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.records import FILE_NAME, read_peers
from hivemind_exp.swarm.contacts import KnownPeers
from hivemind_exp.swarm.identity import Identity
from swarmctl.errors import Exit
from swarmctl.swarm.invite import KNOWN
from tests.support.command_line import write_profile
from tests.support.forked_swarmctl import ForkedSwarmctl, swarmctl

pytestmark = pytest.mark.swarm

SMALL = """
extends = "demo"
[game]
rounds = 0
groups = 2
[warmup]
steps = 250
[eval]
questions = 8
[checkpoint]
every = 10
[swarm]
loopback = true
"""


class Machine:
    """A separate home directory, and the nodes that run in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: dict[str, ForkedSwarmctl] = {}
        self.ended: list[ForkedSwarmctl] = []
        write_profile(home, "default", SMALL)

    def files(self, node: str) -> NodeFiles:
        return NodeFiles(self.home / "nodes" / node)

    def do(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return swarmctl(*arguments, SWARMCTL_HOME=str(self.home))

    def start(self, node: str, *arguments: str) -> None:
        place = self.home / f"{node}-{len(self.ended)}"
        place.mkdir()
        words = ("run", "--node", node, *arguments)
        self.running[node] = ForkedSwarmctl(words, {"SWARMCTL_HOME": str(self.home)}, place, pause_s=0.2)

    def end(self, node: str, number: signal.Signals) -> tuple[int, str]:
        """Signal a node to stop; return its exit code and stderr."""
        self.running[node].send_signal(number)
        return self.await_end(node)

    def await_end(self, node: str) -> tuple[int, str]:
        """Wait for a node's end; return its exit code and stderr."""
        process = self.running.pop(node)
        self.ended.append(process)
        _, output = process.communicate(timeout=60)
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
        deadline = time.monotonic() + seconds
        while not condition():
            process = self.running[node]
            if process.poll() is not None:
                pytest.fail(f"node {node} ended: {process.communicate()}")
            assert time.monotonic() < deadline, f"node {node}: the condition was never met"
            time.sleep(0.1)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines; afterwards, no process may be left running."""
    made = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    yield made
    for machine in made:
        for node in list(machine.running):
            machine.end(node, signal.SIGTERM)
    assert [left.cmdline() for machine in made for process in machine.ended for left in process.left()] == []


@pytest.mark.timeout(600)  # takes only seconds on an otherwise idle machine
def test_three_nodes_train_together_and_continue_without_the_creator(machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    pasted = shlex.split(here.do("swarm", "new", "tea").stdout)
    here.start("tea")
    here.wait("tea", lambda: any(here.files("tea").checkpoints.glob("0*")))
    # The others start from the creator's checkpoint, which saves them the warm-up.
    model = shutil.copytree(max(here.files("tea").checkpoints.glob("0*")) / "model", there.home / "model")
    other = ("--model", str(model), "--set", "warmup.steps=0", *pasted[pasted.index("--join") :])
    there.start("two", *other)
    there.start("three", *other)
    for machine, node in ((here, "tea"), (there, "two"), (there, "three")):
        machine.wait(node, lambda m=machine, n=node: m.learned(n) > 0)  # type: ignore[misc]
    peers = {node: Identity.load(machine.files(node).key).peer_id for machine, node in _all(machines)}
    assert len(set(peers.values())) == 3
    for machine, node in _all(machines):
        assert machine.files(node).charter.read_bytes() == here.files("tea").charter.read_bytes()
        machine.wait(node, lambda m=machine, n=node: len(_known(m, n)) == 2)  # type: ignore[misc]
        assert _known(machine, node) == set(peers.values()) - {peers[node]}
    status = json.loads(there.do("status", "--node", "two", "--json").stdout)["nodes"][0]
    assert (status["state"], status["peers"]) == ("training", 2)
    # Without the creator, "three" finds the swarm again through a peer that it has met and saved.
    met = there.files("three").swarm / KNOWN
    there.wait("three", lambda: bool(KnownPeers(met)[peers["two"]].answered))

    code, output = here.end("tea", signal.SIGINT)
    assert code == Exit.INTERRUPTED
    assert "In the swarm: shared " in output
    psutil.Process(json.loads(there.files("three").lock.read_text())["trainer"]).kill()
    _, output = there.await_end("three")
    assert "(SIGKILL)" in output
    before = there.learned("three")
    there.start("three")
    there.wait("three", lambda: there.learned("three") > before)
    code, output = there.end("three", signal.SIGTERM)
    assert code == Exit.DONE
    assert "Changed:" not in output
    assert Identity.load(there.files("three").key).peer_id == peers["three"]


def _all(machines: tuple[Machine, Machine]) -> list[tuple[Machine, str]]:
    here, there = machines
    return [(here, "tea"), (there, "two"), (there, "three")]


def _known(machine: Machine, node: str) -> set[str]:
    return set(read_peers(machine.files(node).swarm / FILE_NAME))
