"""What the supervisor says about a machine that slept. Its trainers are in ``test_stops`` and ``test_keep_running``."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Iterator

import pytest

from hivemind_exp.config import Config
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import PhaseEvent
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import opened
from swarmctl.run.supervisor import StopSignals, Supervisor
from swarmctl.supervision.sleep import SleepWatch
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import PlainView


@pytest.fixture
def clocks() -> dict[str, float]:
    return {"awake": 0.0, "elapsed": 0.0, "wall": 0.0}


@pytest.fixture
def supervisor(clocks: dict[str, float]) -> Iterator[Supervisor]:
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as node:
        display = PlainView(io.StringIO())
        made = Supervisor(node, display, RunView(), StopSignals(), secrets={}, module="")
        made._sleep = SleepWatch(
            awake=lambda: clocks["awake"], elapsed=lambda: clocks["elapsed"], wall=lambda: clocks["wall"]
        )
        yield made


def state(capsys: pytest.CaptureFixture[str]) -> tuple[str, str | None]:
    assert cli.run(["status", "maths", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    return row["state"], row["detail"]


def printed(supervisor: Supervisor) -> str:
    stream = supervisor.display._write.stream  # type: ignore[union-attr]
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_a_machine_that_slept_is_no_hang(
    supervisor: Supervisor, clocks: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor.look_at_the_clock()
    assert printed(supervisor) == ""
    supervisor._trainer = os.getpid()
    clocks["elapsed"] += 8040
    clocks["wall"] += 8040
    supervisor.look_at_the_clock()
    assert printed(supervisor) == "This machine slept 2 h 14 min, continuing.\n"
    assert state(capsys) == ("asleep", "slept 2 h 14 min, continuing")
    emit = EventLog(supervisor.node.files.events)
    emit(PhaseEvent(name="evaluating"))
    emit.close()
    supervisor.show()
    assert state(capsys) == ("starting", None)


def test_in_a_swarm_a_node_rejoins_and_a_set_clock_is_said(supervisor: Supervisor, clocks: dict[str, float]) -> None:
    supervisor.node.files.charter.write_text("x")
    clocks["elapsed"] += 120
    clocks["wall"] += 120 - 3600
    supervisor.look_at_the_clock()
    assert printed(supervisor).splitlines() == [
        "This machine slept 2 min 0 s, rejoining.",
        "This machine's clock was set back by 1 h 0 min.",
    ]


def full_disk() -> Callable[[int, bytes], int]:
    """Return a stand-in for ``os.write`` on a disk that has room for only half a line."""
    room = [40]

    def write(_descriptor: int, data: bytes) -> int:
        written, room[0] = min(room[0], len(data)), 0
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    return write


def test_what_cannot_be_logged_is_shown(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", full_disk())
    supervisor.say("growth", "the trainer grows")
    assert printed(supervisor) == "warning: the trainer grows.\n"
