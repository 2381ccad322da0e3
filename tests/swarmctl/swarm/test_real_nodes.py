"""Three real nodes on one machine, with two homes to simulate two machines: create, join, kill, resume.

They are forked (see ``forked_swarmctl``).
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hivemind_exp.peers.records import FILE_NAME, read_peers
from hivemind_exp.swarm.contacts import KnownPeers
from hivemind_exp.swarm.identity import Identity
from swarmctl.errors import Exit
from swarmctl.swarm.invite import KNOWN
from tests.support.machines import Machine

pytestmark = pytest.mark.swarm


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines; afterwards, no process may be left running."""
    made = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    yield made
    for machine in made:
        machine.stop()
    assert [left.cmdline() for machine in made for process in machine.ended for left in process.left()] == []


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
