"""Nodes that several processes train together: they learn what one process would, and resume on any number."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.errors import ProcessEnded
from hivemind_exp.events import Event
from tests.support.forked_members import ForkedMember
from tests.support.nodes import Events, make_config, run
from tests.support.restarts import final_weights

pytestmark = pytest.mark.slow

MEMBER = "hivemind_exp.runner.member"


def members() -> list[psutil.Process]:
    """Return the processes that train with this one: started as they are for users, or forks of this one."""
    here = psutil.Process()
    return [child for child in here.children() if MEMBER in child.cmdline() or child.cmdline() == here.cmdline()]


def several(processes: int, rounds: int = 4, *, shard: bool = False) -> Any:
    # Small steps: rounding must not change a completion.
    train = {"processes": processes, "learning_rate": 1e-4, "shard": shard}
    return make_config(train=train, game={"rounds": rounds})


def completions(root: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "journal.sqlite")) as journal:
        return journal.execute("SELECT round, question, idx, ids FROM completions ORDER BY 1, 2, 3").fetchall()


def furthest(some: Path, other: Path) -> float:
    """Return the largest difference between the weights of two nodes' newest checkpoints."""
    one, two = final_weights(some), final_weights(other)
    return max(float((one[name] - two[name]).abs().max()) for name in one)


class Killer(Events):
    """Kills the other process after the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if len(self.of("step")) == self._step and event.event_name() == "step":
            for process in members():
                process.kill()


def test_two_processes_train_and_generate_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, killed = tmp_path / "one", tmp_path / "two", tmp_path / "killed"
    run(several(1), one)
    events = Events()
    assert run(several(2), two, emit=events).step == 4
    assert members() == []
    assert completions(two) == completions(one)
    assert furthest(one, two) < 1e-5
    assert [each["name"] for each in events.of("phase")].count("loading the model in the other processes") == 1

    monkeypatch.setattr("hivemind_exp.parallel.team.spawn", ForkedMember)
    with pytest.raises(ProcessEnded, match=r"^process 2 of 2 was killed \(SIGKILL\), .* \(.*train\.processes\)$"):
        run(several(2), killed, emit=Killer(3))
    assert members() == []
    assert run(several(1), killed).step == 4
    assert completions(killed) == completions(one)
    assert furthest(one, killed) < 1e-5
    # On more processes than before, from a checkpoint.
    assert run(several(1, rounds=5), one).step == 5
    assert run(several(3, rounds=5), killed).step == 5
    assert furthest(one, killed) < 1e-5

    # From one process to two that divide the model, and back; then from those to two with all of it.
    divided = tmp_path / "divided"
    assert run(several(1, rounds=1), divided).step == 1
    assert run(several(2, rounds=3, shard=True), divided).step == 3
    assert run(several(1, rounds=4), divided).step == 4
    assert run(several(2, rounds=5, shard=True), divided).step == 5
    assert members() == []
    assert completions(divided) == completions(one)
    assert furthest(one, divided) < 1e-5
