"""The state of a node. A dead one is never shown as alive, and another process never as the node's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeConflict
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import check_free, opened
from swarmctl.nodes.state import NodeState, ended_state, running_state
from swarmctl.nodes.stop import ask_to_stop, stop_all
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.progress import RunView
from tests.support.patience import wait_for_end

ALIVE = {"pid": 1, "trainer": 2, "doing": None}
START = {"event": "start", "t": 0, "node": "maths", "rounds": 0}


def phase(name: str) -> dict[str, Any]:
    return {"event": "phase", "t": 0, "name": name}


def peers(number: int) -> dict[str, Any]:
    return {"event": "peers", "t": 0, "peers": number, "neighbours": number}


def seen(*events: dict[str, Any]) -> RunView:
    progress = RunView()
    for event in events:
        progress.apply(event)
    return progress


STOP = {"event": "stop", "t": 0, "reason": "signal", "round": 3}
DOWN = {"event": "warning", "t": 0, "code": "provider_down", "message": "", "provider": "openai"}


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([phase("loading PyTorch")], NodeState.STARTING),
        ([START, STOP, phase("loading PyTorch")], NodeState.STARTING),  # resumed
        ([START, STOP, phase("loading PyTorch"), START], NodeState.TRAINING),
        ([START, phase("evaluating"), STOP], NodeState.TRAINING),  # about to end
        ([phase("warming up")], NodeState.WARMING_UP),
        ([START, phase("trying prompt styles")], NodeState.WARMING_UP),
        ([START], NodeState.TRAINING),
        ([START, phase("evaluating")], NodeState.TRAINING),
        ([START, {**DOWN, "fallback": None}], NodeState.WAITING),
        ([START, {**DOWN, "fallback": "local"}], NodeState.TRAINING),
        ([START, phase("waiting for a batch of 8 requests at openai")], NodeState.WAITING),
        ([START, peers(0)], NodeState.TRAINING),  # the first node of its swarm
        ([START, peers(2), peers(0)], NodeState.OFFLINE),
        ([START, peers(2), peers(0), peers(1)], NodeState.TRAINING),
    ],
)
def test_states_of_a_running_node(events: list[dict[str, Any]], state: NodeState) -> None:
    assert running_state(ALIVE, seen(*events), paused=False, in_swarm=True) is state
    assert state.running


@pytest.mark.parametrize("doing", [NodeState.BACKING_OFF, NodeState.ASLEEP, NodeState.PAUSED])
def test_what_the_supervisor_does_comes_first(doing: NodeState) -> None:
    holder = ALIVE | {"doing": {"state": str(doing)}}
    assert running_state(holder, seen(phase("warming up")), paused=False, in_swarm=False) is doing


def test_a_stopped_trainer_is_paused_and_a_lost_supervisor_is_dead() -> None:
    assert running_state(ALIVE, seen(START), paused=True, in_swarm=False) is NodeState.PAUSED
    lost = running_state(ALIVE | {"pid": None}, seen(START), paused=True, in_swarm=False)
    assert lost is NodeState.DEAD
    assert not lost.running


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], NodeState.NEW),
        ([START, {"event": "round", "t": 0, "round": 0, "seconds": {}}], NodeState.DEAD),
        ([START, {"event": "error", "t": 0, "code": "x", "message": "it broke"}], NodeState.FAILED),
        ([{"event": "error", "t": 0, "code": "x", "message": "it broke"}], NodeState.FAILED),
        *(
            ([START, {"event": "stop", "t": 0, "reason": reason}], state)
            for reason, state in {
                "done": NodeState.DONE,
                "signal": NodeState.STOPPED,
                "limit": NodeState.LIMIT,
                "error": NodeState.FAILED,
            }.items()
        ),
    ],
)
def test_states_of_a_node_that_ended(events: list[dict[str, Any]], state: NodeState) -> None:
    assert ended_state(seen(*events)) is state
    assert not state.running


def test_a_process_that_got_a_dead_ones_number_is_neither_shown_nor_signaled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as node, subprocess.Popen(["sleep", "60"]) as other:
        locks.write_holder(node.lock, other.pid)
        files = node.files
        assert locks.holder(files.lock)["trainer"] == other.pid
        assert locks.holder(files.lock)["schema"] == 1
        recorded = json.loads(files.lock.read_text())
        assert len(files.lock.read_bytes()) == 1024  # replaced in place, also on a full disk
        recorded["pid"] = other.pid  # the supervisor is gone, and its number now belongs to another process
        recorded["trainer_started"] = "1"
        files.lock.write_text(json.dumps(recorded))
        assert (locks.holder(files.lock)["pid"], locks.holder(files.lock)["trainer"]) == (None, None)
        assert cli.run(["status", "maths", "--json"]) == Exit.DONE
        (row,) = json.loads(capsys.readouterr().out)["nodes"]
        assert row["pid"] is None
        assert cli.run(["stop", "maths"]) == Exit.CONFIGURATION  # running, but by whom?
        assert "does not name its process" in capsys.readouterr().err
        assert other.poll() is None
        other.kill()
    assert stop_all([files])[0]["was_running"] is False


def test_the_start_of_a_process_is_told_from_others() -> None:
    own = locks.start_of(os.getpid())
    assert own == locks.start_of(os.getpid())
    assert own != locks.start_of(1)
    assert locks.start_of(2**22 + 1) is None
    assert locks.is_alive(os.getpid(), own)
    assert not locks.is_alive(os.getpid(), "1")


def test_a_node_in_a_container_is_neither_dead_nor_signaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as node:
        recorded = json.loads(node.files.lock.read_text())
        node.files.lock.write_text(json.dumps(recorded | {"where": "this boot pid:[4026532]"}))
        assert cli.run(["status", "maths", "--json"]) == Exit.DONE
        (row,) = json.loads(capsys.readouterr().out)["nodes"]
        assert (row["state"], row["pid"], row["running"]) == ("starting", None, True)
        assert row["detail"] == "runs in a container or on another machine"
        assert cli.run(["stop", "maths"]) == Exit.FAILED
        assert "stop it there" in capsys.readouterr().err
        with pytest.raises(NodeConflict, match="already running in a container or on another machine"):
            check_free(node.files, lambda name: name)


def test_a_user_who_cannot_look_into_processes_can_stop_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: psutil.Process) -> None:
        raise psutil.AccessDenied  # swarmctl hides its memory, and with it the list of its open files

    monkeypatch.setattr(psutil.Process, "open_files", refused)
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as node, subprocess.Popen(["sleep", "60"]) as other:
        recorded = json.loads(node.files.lock.read_text())
        started = {"pid": other.pid, "started": locks.start_of(other.pid)}
        node.files.lock.write_text(json.dumps(recorded | started))
        assert ask_to_stop(node.files)
        assert wait_for_end(other, 20) == -signal.SIGTERM
