"""``status`` and ``logs``: the state of nodes, from their files only."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.events import (
    ErrorEvent,
    EvalEvent,
    EventLog,
    RoundEvent,
    StartEvent,
    StepEvent,
    StopEvent,
    WarningEvent,
    discard,
)
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.run_recorder import RunRecorder
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import opened
from swarmctl.nodes.logs import last_lines
from tests.support.command_line import ROOT, STAND_IN


@pytest.fixture
def node() -> Iterator[NodeFiles]:
    """A running node that has finished two rounds."""
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as opened_node:
        files = opened_node.files
        emit = EventLog(files.events)
        emit(StartEvent(node="maths", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
        emit(EvalEvent(round=0, accuracy=0.25, questions=200))
        for round_ in range(2):
            emit(
                StepEvent(
                    step=round_,
                    round=round_,
                    stage="answer",
                    loss=0.1,
                    grad_norm=1.0,
                    learning_rate=1e-4,
                    tokens=80,
                    rows=8,
                    source="policy",
                    replayed=False,
                )
            )
            emit(RoundEvent(round=round_, rounds=5, seconds={"train": 1.0}, tokens_per_second=1.0))
        emit(EvalEvent(round=2, accuracy=0.5, questions=200))
        emit.close()
        files.log.write_text("".join(f"line {n}\n" for n in range(50)) + "colour\x1b[31m\n")
        yield files


def test_a_running_node(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status"]) == Exit.DONE
    line = capsys.readouterr().out
    assert line.startswith("maths: running (pid ")
    assert line.endswith("round 2, accuracy 25 % → 50 %\n")
    assert cli.run(["status", "--node", "maths", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert (row["state"], row["round"], row["accuracy_before"], row["accuracy_after"]) == ("running", 2, 0.25, 0.5)
    assert row["updated"].endswith("Z")
    assert row["model"] is None


def test_status_shows_an_outage_until_the_provider_is_back(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    def status() -> tuple[str, str | None]:
        assert cli.run(["status"]) == Exit.DONE
        line = capsys.readouterr().out
        assert cli.run(["status", "--json"]) == Exit.DONE
        (row,) = json.loads(capsys.readouterr().out)["nodes"]
        return line.partition("50 %")[2], row["provider_down"]

    emit = EventLog(node.events)
    assert status() == ("\n", None)
    emit(WarningEvent(code="provider_down", message="…", provider="mybox", fallback="local"))
    for _ in range(3000):  # the warning is no longer among the recent events
        emit(RoundEvent(round=1, rounds=5, seconds={"train": 1.0}, tokens_per_second=1.0))
    assert status() == (", mybox unavailable, falling back\n", "mybox")
    emit(WarningEvent(code="provider_back", message="…", provider="mybox"))
    assert status() == ("\n", None)
    emit(WarningEvent(code="provider_down", message="…", provider="mybox"))
    assert status() == (", mybox unavailable, waiting\n", "mybox")
    emit.close()
    node.lock.unlink()  # as if its process had exited
    assert status() == ("\n", None)


@pytest.mark.parametrize(
    ("reason", "state"), [("done", "done"), ("signal", "stopped"), ("error", "failed"), (None, "interrupted")]
)
def test_a_node_that_ended(reason: str | None, state: str, node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    if reason is not None:
        emit = EventLog(node.events)
        emit(ErrorEvent(code="x", message="it broke"))
        emit(StopEvent(reason=reason, round=2, steps=2))
        emit.close()
    node.lock.unlink()  # as if its process had exited
    assert cli.run(["status", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert row["state"] == state
    assert row["pid"] is None
    if reason is not None:
        assert row["error"] == {"code": "x", "message": "it broke"}


@pytest.mark.parametrize(("reason", "state"), [("done", "done"), ("error", "failed"), (None, "interrupted")])
def test_status_without_the_log(
    reason: str | None, state: str, node: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(node.journal, "")
    for round_, accuracy in ((0, 0.25), (2, 0.5)):
        journal.write_evaluation(Evaluation(round_, accuracy, 200, {}))
        journal.commit(Manifest(round_, round_, 0, 1, ()))
    journal.close()
    emit = RunRecorder(node.run, discard)
    emit(StartEvent(node="maths", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
    if reason == "error":
        emit(ErrorEvent(code="x", message="it broke"))
    if reason is not None:
        emit(StopEvent(reason=reason, round=2, steps=2))
    node.lock.unlink()  # as if its process had exited
    rows = []
    for _ in range(2):
        assert cli.run(["status", "--json"]) == Exit.DONE
        rows += json.loads(capsys.readouterr().out)["nodes"]
        node.events.unlink(missing_ok=True)
    assert rows[0] == rows[1]
    assert (rows[1]["state"], rows[1]["round"], rows[1]["accuracy_after"]) == (state, 2, 0.5)
    assert rows[1]["error"] == ({"code": "x", "message": "it broke"} if reason == "error" else None)


def test_a_node_that_does_not_exist(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "--node", "math"]) == Exit.CONFIGURATION
    assert "did you mean maths?" in capsys.readouterr().err


def test_logs_print_the_end(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", "-n", "3"]) == Exit.DONE
    assert capsys.readouterr().out == "line 48\nline 49\ncolour\n"
    assert cli.run(["logs", "--node", "maths", "--json", "-n", "1"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.5


def test_logs_without_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs"]) == Exit.CONFIGURATION
    assert "no node has run yet" in capsys.readouterr().err


def test_logs_follow_new_lines(node: NodeFiles) -> None:
    command = [*STAND_IN, "logs", "-f", "-n", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed = threading.Event()
        threading.Thread(target=lambda: process.stdout and process.stdout.readline() and printed.set()).start()
        while not printed.wait(0.1):
            with node.log.open("a") as file:
                file.write("more\n")
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=10)[1]
    finally:
        process.kill()
    assert process.returncode == Exit.INTERRUPTED
    assert "Traceback" not in err


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{n:099d}\n" for n in range(5000)))
    assert [int(line) for line in last_lines(path, path.stat().st_size, 1500)] == list(range(3500, 5000))
    assert last_lines(path, 0, 5) == []
