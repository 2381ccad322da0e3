"""Each process of a real node is killed and frozen: nothing is lost, paid for twice, or left behind.

The short form of ``benchmarks/node_attacks.py``.
"""

from __future__ import annotations

import random
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.chaos.attacks import (
    ENDING,
    OFFLOADED,
    PATIENCE_S,
    Attacked,
    Victim,
    attacked,
    find,
    money_faults,
    output,
)
from tests.support.chaos.nodes import ForkedCommandSwarm
from tests.support.fake_api.remote import api_process
from tests.support.waiting import until

pytestmark = pytest.mark.slow

FROZEN_S = 1.0


def told(node: Attacked, what: str) -> list[str]:
    return [line for line in output(node.node).splitlines() if what in line]


def test_each_process_of_an_offloading_node_in_a_swarm(tmp_path: Path) -> None:
    chance = random.Random(4)
    attacks = [(victim, number) for victim in Victim for number in (signal.SIGKILL, signal.SIGSTOP)]
    chance.shuffle(attacks)
    with api_process(answer="tests.support.teachers:half_right") as server:
        node = attacked(tmp_path, OFFLOADED.replace("BASE_URL", server.base_url), chance, kind=ForkedCommandSwarm)
        with node.swarm, node.twin:
            node.run(attacks, frozen_s=FROZEN_S)
            assert len(node.done) == len(attacks)
            node.stop()
            books = server.settled()
            node.compare()
            node.faults += money_faults(node.node.files, books)
    assert node.faults == []


def test_a_node_that_stays_frozen_says_what_is_stuck_and_can_be_stopped(tmp_path: Path) -> None:
    with api_process(answer="tests.support.teachers:half_right") as server:
        node = attacked(
            tmp_path, OFFLOADED.replace("BASE_URL", server.base_url), random.Random(5), kind=ForkedCommandSwarm
        )
        with node.swarm, node.twin:
            until(lambda: node.node.rounds() > 1, PATIENCE_S)
            for victim, name in ((Victim.ENGINE, "API process"), (Victim.TRAINER, "trainer")):
                process = find(node.node, victim)
                assert process is not None
                process.suspend()
                until(lambda: told(node, f"the {name} (pid {process.pid}) was stopped"), PATIENCE_S)  # noqa: B023
                (line,) = told(node, f"the {name} (pid")
                rounds = node.node.rounds()
                if victim not in ENDING:
                    subprocess.run(shlex.split(line.partition("To continue it: ")[2]), check=True)
                    until(lambda: node.node.rounds() > rounds + 1, PATIENCE_S)  # noqa: B023
            node.stop()
    assert node.faults == []
