"""``logs``: what a node has said, from its files only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from hivemind_exp.event_log import EventLog
from hivemind_exp.events import (
    CheckpointEvent,
    ErrorEvent,
    NoteEvent,
    StopEvent,
    WarningEvent,
)
from hivemind_exp.node_files import NodeFiles
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.logs import last_lines, moment
from swarmctl.storage import node_lock as locks
from tests.support.command_line import ROOT, STAND_IN
from tests.support.journals import bare_node
from tests.support.patience import finish
from tests.support.terminals import rest_of, spawn


def test_logs_are_sentences_with_times(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    emit = EventLog(node.events)
    emit(WarningEvent(code="x", message="mind\nthe gap"))
    emit(ErrorEvent(code="x", message="it broke"))
    emit(StopEvent(reason="error", round=2, steps=2))
    emit.close()

    def logs(*options: str) -> list[str]:
        assert cli.run(["logs", *options]) == Exit.DONE
        lines = capsys.readouterr().out.splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \w", line) for line in lines)
        return [line[21:] for line in lines]

    assert logs("maths", "-n", "7")[:-1] == [
        "Accuracy 25 % (20–31) on 200 held-out questions before training.",
        "Round 1 of 5: 1.0 s.",
        "Round 2 of 5: 1.0 s.",
        "Accuracy 50 % (43–57) on 200 held-out questions after round 2, 25 % (20–31) before training.",
        "warning: mind the gap.",
        "error: it broke",
    ]
    assert logs("-n", "1") == ["Failed after 2 rounds."]
    assert logs("--level", "warning") == ["warning: mind the gap.", "error: it broke"]
    assert logs("--level", "error") == ["error: it broke"]
    assert len(logs("--since", "1h")) == len(logs("-n", "1000"))
    assert logs("--since", "2999-01-01") == []


def test_raw_logs_and_events(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", "--raw", "-n", "3"]) == Exit.DONE
    assert capsys.readouterr().out == "line 48\nline 49\ncolour\n"
    assert cli.run(["logs", "--node", "maths", "--json", "-n", "1"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30m", "2026-11-28T13:30"),
        ("2h", "2026-11-28T12:00"),
        ("1d", "2026-11-27T14:00"),
        ("13:05", "2026-11-28T13:05"),
        ("14:05", "2026-11-27T14:05"),
        ("2026-11-28T09:00", "2026-11-28T09:00"),
    ],
)
def test_since_accepts_spans_and_times(text: str, at: str) -> None:
    now = datetime.fromisoformat("2026-11-28T14:00").astimezone()
    assert moment(text, now) == datetime.fromisoformat(at).astimezone().timestamp()


@pytest.mark.parametrize("text", ["yesterday", "25:00", "30", "", "-1h"])
def test_an_invalid_time_names_the_valid_ones(text: str, node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", f"--since={text}"]) == Exit.USAGE
    assert "Use a time span such as 30m, 2h or 1d" in capsys.readouterr().err


def test_raw_logs_without_output_say_so(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    node.log.write_text("")
    assert cli.run(["logs", "--raw"]) == Exit.DONE
    assert capsys.readouterr() == ("", "The trainer of node maths has printed nothing yet.\n")
    node.log.write_text("line\n")
    assert cli.run(["logs", "--raw"]) == Exit.DONE
    assert capsys.readouterr() == ("line\n", "")


def test_logs_shorten_the_home_directory_and_notes_are_no_warnings(
    node: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    emit = EventLog(node.events)
    emit(CheckpointEvent(round=2, seconds=1.0, path=str(Path.home() / "nodes/maths/checkpoints/2")))
    emit(NoteEvent(code="leftovers", message=f"Removed {Path.home() / 'nodes/maths/left'}"))
    emit.close()
    assert cli.run(["logs", "-n", "2"]) == Exit.DONE
    saved, note = capsys.readouterr().out.splitlines()
    assert saved.endswith("  Saved a checkpoint after round 2.")
    assert note.endswith("  Removed ~/nodes/maths/left.")
    assert cli.run(["logs", "--level", "warning"]) == Exit.DONE
    assert capsys.readouterr().out == ""


def test_logs_of_a_node_that_never_ran_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    bare_node("new").events.unlink()
    assert cli.run(["logs", "new"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Node new has no log yet: it has never run.\n")


def test_logs_say_if_no_line_matches(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", "--since", "2999-01-01"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"No matching lines in the log of node {node.root.name}.\n")


def test_logs_without_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs"]) == Exit.CONFIGURATION
    assert "no node has run yet" in capsys.readouterr().err


@pytest.mark.parametrize("raw", [True, False])
def test_logs_follow_new_lines(raw: bool, node: NodeFiles) -> None:
    command = [*STAND_IN, "logs", "-f", *(["--tail", "0", "--raw"] if raw else ["-n", "0"])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    emit = EventLog(node.events)
    try:
        printed = threading.Event()
        threading.Thread(target=lambda: process.stdout and process.stdout.readline() and printed.set()).start()
        while not printed.wait(0.1):
            if raw:
                with node.log.open("a") as file:
                    file.write("more\n")
            else:
                emit(WarningEvent(code="x", message="more"))
        process.send_signal(signal.SIGINT)
        err = finish(process, 10)[1]
    finally:
        process.kill()
        emit.close()
    assert process.returncode == Exit.INTERRUPTED
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "begun", "then"),
    [
        ("logs -f", "before training.", ""),
        ("logs -f --raw", "colour", ""),
        ("status --watch", "maths", ""),
        ("attach --plain", "To leave, press Ctrl-C.", "Node maths continues"),
        ("report --serve", "To stop, press Ctrl-C.", "Stopped."),
    ],
)
def test_what_follows_ctrl_c_has_a_line_of_its_own(command: str, begun: str, then: str, node: NodeFiles) -> None:
    """The terminal shows ^C where the cursor is, and leaves the cursor behind it."""
    terminal = spawn([*STAND_IN, *command.split()], environment=os.environ | {"TERM": "dumb"})
    terminal.expect_exact(begun)
    terminal.expect_exact("\r\n")
    terminal.sendintr()
    terminal.expect_exact("^C")
    assert rest_of(terminal).startswith(f"\r\n{then}")


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_logs_that_follow_say_once_that_the_node_does_not_run(
    raw: list[str], node: NodeFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = iter([True, False, False, True, False])

    def is_held(_: Path) -> bool:
        for state in states:
            return state
        raise KeyboardInterrupt

    monkeypatch.setattr(locks, "is_held", is_held)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert cli.run(["logs", "maths", "-f", *raw]) == Exit.INTERRUPTED
    said = f"Node {node.root.name} is not running. Its next run will be shown here. To leave, press Ctrl-C."
    assert capsys.readouterr().err.count(said) == 2


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{n:099d}\n" for n in range(5000)))
    assert [int(line) for line in last_lines(path, path.stat().st_size, 1500)] == list(range(3500, 5000))
    assert last_lines(path, 0, 5) == []
