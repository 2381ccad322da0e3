"""A node that is restored from a backup while it is running: the old copy stops, although no third node tells it.

Two homes with separate locks and, where the system can do that, separate networks simulate two machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from hivemind_exp.swarm.identity import Identity
from swarmctl.errors import Exit
from tests.support.chaos.namespaces import Network, obstacle
from tests.support.machines import SMALL, Machine

pytestmark = pytest.mark.swarm

UNTRAINED = SMALL.replace("steps = 120", "steps = 1").replace("every = 10", "every = 2")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines; afterwards, no process may be left running."""
    with ExitStack() as ends:
        names: Sequence[str | None] = (None, None)
        if obstacle() is None:
            names = ends.enter_context(Network([1, 1])).namespaces
        here, there = (
            Machine(tmp_path / each, at, UNTRAINED) for each, at in zip(("here", "there"), names, strict=True)
        )
        made = here, there
        yield made
        for machine in made:
            machine.stop()
    assert [left.cmdline() for machine in made for process in machine.ended for left in process.left()] == []


def codes(machine: Machine) -> list[object]:
    return [event["code"] for event in machine.events("tea") if event["event"] == "warning"]


def rounds(machine: Machine) -> int:
    return sum(event["event"] == "round" for event in machine.events("tea"))


def test_the_old_copy_of_a_restored_node_stops(machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    here.do("swarm", "new", "tea")
    here.start("tea")
    here.wait("tea", lambda: any(here.files("tea").checkpoints.glob("0*")))
    saved = there.home / "tea.backup"
    assert here.do("backup", "tea", str(saved)).returncode == Exit.DONE
    assert there.do("restore", str(saved)).returncode == Exit.DONE
    assert Identity.load(there.files("tea").key).peer_id == Identity.load(here.files("tea").key).peer_id
    there.start("tea")

    code, output = here.await_end("tea", 240)
    assert code == Exit.CONFIGURATION
    assert "a copy of node tea was restored from a backup on" in output
    assert "swarmctl identity new --node tea" in output
    there.wait("tea", lambda: "identity_elsewhere" in codes(there))
    before = rounds(there)
    there.wait("tea", lambda: rounds(there) > before)

    # The old copy stays out, and can run with another identity.
    here.start("tea")
    code, output = here.await_end("tea")
    assert (code, "so this older one must not run" in output) == (Exit.CONFIGURATION, True)
    assert here.do("identity", "new", "--node", "tea", "--yes").returncode == Exit.DONE
    before = rounds(here)
    here.start("tea")
    here.wait("tea", lambda: rounds(here) > before)
    assert there.running["tea"].poll() is None
