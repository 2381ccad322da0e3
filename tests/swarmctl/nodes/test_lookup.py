"""Which node a command uses or suggests if several fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import existing_or_latest, files_of, latest
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import write_json


def node(name: str, *, ran: float | None = None) -> NodeFiles:
    """Create a node that last ran at a time, in Unix seconds."""
    files = files_of(name)
    files.root.mkdir(parents=True)
    write_json(files.identity, {"name": name})
    os.utime(files.identity, (100, 100))
    if ran is not None:
        files.events.touch()
        os.utime(files.events, (ran, ran))
    return files


@pytest.fixture
def running(home: Path) -> Iterator[list[NodeFiles]]:
    """Two nodes that run; the first was started last, the second wrote last."""
    nodes = [node("first", ran=1000.0), node("second", ran=9000.0)]
    held = []
    for files, since in zip(nodes, ("2026-11-28T14:00:00Z", "2026-11-28T13:00:00Z"), strict=True):
        lock = os.open(files.lock, os.O_RDWR | os.O_CREAT)
        assert locks.acquire(lock)
        locks.write_holder(lock, None)
        write_json(files.lock, {"pid": os.getpid(), "trainer": None, "since": since})
        # ``write_json`` replaces the file, so the new one is locked, too.
        new = os.open(files.lock, os.O_RDWR)
        assert locks.acquire(new)
        held += [lock, new]
    yield nodes
    for lock in held:
        os.close(lock)


def test_the_node_that_ran_last_is_the_latest(home: Path) -> None:
    nodes = [node("a", ran=500.0), node("b", ran=900.0), node("c")]
    assert latest(nodes).root.name == "b"
    assert existing_or_latest(None).root.name == "b"
    os.utime(nodes[2].identity, (2000, 2000))
    assert latest(nodes).root.name == "c"  # created after the others ran
    assert existing_or_latest(None).root.name == "b"  # which has something to show


def test_of_running_nodes_the_one_started_last_counts_however_much_the_others_write(
    running: list[NodeFiles],
) -> None:
    for written in (1000.0, 10_000.0):
        os.utime(running[1].events, (written, written))
        assert latest(running).root.name == "first"
        assert existing_or_latest(None).root.name == "first"


@pytest.mark.parametrize("command", ["attach", "stop", "restart"])
def test_every_command_suggests_the_same_node(
    command: str, running: list[NodeFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([command]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "2 nodes are running (first, second); name one" in said
    assert said.rstrip().endswith(f"swarmctl {command} first")


@pytest.mark.parametrize(
    "command",
    [
        *("logs a", "logs", "report a", "attach a", "rename a b", "fork a b", "backup a b.tar", "upgrade a"),
        *("quarantine a", "replay a --step 1", "sample a", "eval a", "export a model", "run --node a"),
        *("rollouts stats --node a", "rollouts export --node a", "launch a --print sky", "swarm leave --node a"),
        "service install a --print systemd",
    ],
)
def test_a_node_of_a_newer_version_is_refused(
    command: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    of_a_newer_version("a")
    assert cli.run(command.split()) == Exit.CONFIGURATION
    error = capsys.readouterr().err
    assert "node.json has format 99, from a newer version of swarmctl" in error
    assert "  try: git -C" in error


def test_the_status_of_a_node_of_a_newer_version_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_a_newer_version("a")
    assert cli.run(["status"]) == Exit.DONE
    assert "from a newer version of swarmctl" in capsys.readouterr().out
    for command in ("stop a", "rm a --yes"):  # it needs no format to be stopped or deleted
        assert cli.run(command.split()) == Exit.DONE
    assert not files_of("a").root.exists()


def of_a_newer_version(name: str) -> None:
    """Create a node whose directory has a format that this version does not know."""
    files = node(name, ran=500.0)
    write_json(files.identity, {"name": name, "format": 99})
