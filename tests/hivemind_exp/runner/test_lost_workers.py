"""A node whose task workers are killed or frozen at random moments trains as if nothing had happened."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from pathlib import Path

import psutil
import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import Events, make_config
from tests.support.restarts import same_weights
from tests.support.task_workers import task_workers

pytestmark = pytest.mark.slow

CONFIG = make_config(
    game={"partial_credit": True, "rounds": 6},
    generation={"max_completion_tokens": 24},
    warmup={"steps": 60, "batch": 16},
)
"""After the warm-up, the tiny model's answers earn different rewards."""

MOST = 6
"""Workers killed or frozen. It takes seconds to find out that one is frozen."""


def train(root: Path) -> Events:
    root.mkdir()
    NodeFiles(root).secret_file.write_bytes(bytes(32))  # the same held-out questions in every run
    events = Events()
    assert GRPORunner(CONFIG, NodeFiles(root), events).run().step == 6
    return events


def rewards(events: Events) -> list[tuple[object, object]]:
    return [(each["count"], each["reward"]) for each in events.of("rollouts")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    root = tmp_path_factory.mktemp("lost") / "undisturbed"
    events = train(root)
    assert len({reward for _, reward in rewards(events)}) > 1, "otherwise a lost reward would not be noticed"
    assert not events.of("workers")
    return root, events


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_reward_is_lost_and_the_weights_are_bit_equal(
    number: signal.Signals, undisturbed: tuple[Path, Events], tmp_path: Path
) -> None:
    hit: set[int] = set()
    over = threading.Event()

    def attack() -> None:
        chance = random.Random(number)
        while len(hit) < MOST and not over.wait(chance.uniform(0.05, 0.6)):
            there = [worker for worker in task_workers() if worker.pid not in hit]
            with contextlib.suppress(IndexError, psutil.Error):
                worker = chance.choice(there)
                worker.send_signal(number)
                hit.add(worker.pid)

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        events = train(tmp_path / "disturbed")
    finally:
        over.set()
        attacker.join()
    assert len(hit) >= 3
    assert rewards(events) == rewards(undisturbed[1])
    assert sum(each["unverified"] for each in events.of("workers")) == 0
    assert sum(each["replaced"] for each in events.of("workers")) > 0
    assert same_weights(undisturbed[0], tmp_path / "disturbed")
