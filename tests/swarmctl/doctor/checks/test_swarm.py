"""The swarm checks against real sockets, locks, file modes and checkpoints."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.events import discard
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl.doctor.check import Context, Status
from swarmctl.doctor.checks import swarm
from swarmctl.nodes.directory import opened
from swarmctl.storage import node_lock as locks
from tests.support.command_line import ROOT
from tests.support.doctor import age, make


@pytest.fixture
def node(home: Path) -> NodeFiles:
    """A complete node named demo that is not running."""
    context = make("demo")
    with opened(context.config, lambda name: name) as made:
        made.files.secret()
        return made.files


@pytest.fixture
def holder(node: NodeFiles) -> Iterator[int]:
    """The node's lock, held by this process."""
    lock = os.open(node.lock, os.O_RDWR)
    assert locks.acquire(lock)
    locks.write_holder(lock, os.getpid())
    yield lock
    os.close(lock)


def here(tmp_path: Path) -> Context:
    return make("demo", sockets=tmp_path)


def test_port_answers_at_local_addresses() -> None:
    assert swarm.port(make()).status is Status.OK
    found = swarm.dial(["127.0.0.1"])
    assert (found.status, "loopback only" in found.text) == (Status.OK, True)


def test_an_address_that_does_not_answer_is_named() -> None:
    # No machine has an address in "this network" (0.0.0.0/8): the system refuses to connect and sends nothing.
    found = swarm.dial(["127.0.0.1", "0.0.0.1"])
    assert (found.status, "0.0.0.1" in found.text) == (Status.WARNING, True)


def test_without_file_descriptors_no_port_opens() -> None:
    code = (
        "import resource; from swarmctl.doctor.checks import swarm; "
        "import psutil; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); "
        "print(swarm.dial([]).text); print(swarm.port(None).text)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["cannot open a port: Too many open files"] * 2


@pytest.mark.parametrize(("number", "remedy"), [(errno.EMFILE, "ulimit"), (errno.EPERM, "ip addr")])
def test_more_open_files_are_suggested_only_if_there_are_too_few(
    monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def create_server(_address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_server", create_server)
    assert (swarm.port(make()).remedy or "").startswith(remedy)


def test_the_daemon_starts() -> None:
    assert swarm.p2pd(make()).status is Status.OK


def test_missing_broken_or_non_executable_daemon_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "p2pd"
    assert "is missing" in swarm.daemon(path, "reinstall").text
    path.write_text("#!/bin/sh\necho '  -listen string'\n")
    closed = swarm.daemon(path, "reinstall")
    assert closed.status is Status.FAILED
    assert closed.fix is not None
    assert "executable" in closed.fix()
    assert swarm.daemon(path, "reinstall").status is Status.OK
    path.write_bytes(b"\x7fELF of another machine")
    assert "does not start" in swarm.daemon(path, "reinstall").text
    path.write_text("#!/bin/sh\nexit 3\n")
    assert "exited with code 3" in swarm.daemon(path, "reinstall").text


def test_node_is_missing_stopped_running_or_broken(home: Path) -> None:
    found = swarm.node(make("demo"))
    assert (found.status, "does not exist yet" in found.text) == (Status.OK, True)
    with opened(make("demo").config, lambda name: name) as made:
        assert f"running (pid {os.getpid()}" in swarm.node(make("demo")).text
    assert swarm.node(make("demo")).text == "node demo is not running"
    made.files.identity.write_text("half of {")
    broken = swarm.node(make("demo"))
    assert broken.status is Status.FAILED
    assert "is not a node" in broken.text


def test_trainer_that_outlived_its_supervisor_is_reported(node: NodeFiles, holder: int) -> None:
    content = json.dumps({"pid": 2**22 + 1, "trainer": 7, "since": "2026-01-01T00:00:00Z"})
    os.ftruncate(holder, 0)
    os.pwrite(holder, content.encode(), 0)
    found = swarm.node(make("demo"))
    assert found.status is Status.WARNING
    assert "trainer (pid 7)" in found.text


@pytest.mark.parametrize("name", ["secret", "identity.key"])
def test_readable_secrets_fail_and_can_be_fixed(node: NodeFiles, name: str) -> None:
    Identity.create(node.key)
    assert swarm.modes(make("demo")).status is Status.OK
    secret = node.root / name
    secret.chmod(0o644)
    found = swarm.modes(make("demo"))
    assert found.status is Status.FAILED
    assert f"{secret} (0644)" in found.text
    assert os.system(found.remedy or "false") == 0
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.chmod(0o640)
    node.root.chmod(0o755)
    found = swarm.modes(make("demo"))
    assert found.fix is not None
    found.fix()
    assert (stat.S_IMODE(secret.stat().st_mode), stat.S_IMODE(node.root.stat().st_mode)) == (0o600, 0o700)
    node.root.chmod(0o750)
    assert swarm.modes(make("demo")).status is Status.WARNING


def test_dead_sockets_are_removed_and_live_ones_kept(home: Path, tmp_path: Path) -> None:
    assert swarm.leftovers(here(tmp_path)).status is Status.OK
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as fresh:
        dead.bind(str(tmp_path / "hivemind-p2pd-dead.sock"))
        fresh.bind(str(tmp_path / "hivemind-p2pd-fresh.sock"))
    (tmp_path / "hivemind-note.sock").write_text("not a socket")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "hivemind-p2pd-living.sock"))
        living.listen()
        for name in ("p2pd-dead", "p2pd-living", "note"):
            age(tmp_path / f"hivemind-{name}.sock")
        found = swarm.leftovers(here(tmp_path))
        assert found.status is Status.WARNING
        assert "sockets of dead daemons: 1" in found.text
        assert found.fix is not None
        assert "hivemind-p2pd-dead.sock" in found.fix()
    left = sorted(path.name for path in tmp_path.glob("hivemind-*"))
    assert left == ["hivemind-note.sock", "hivemind-p2pd-fresh.sock", "hivemind-p2pd-living.sock"]


def test_unfinished_files_are_removed_unless_the_node_runs(node: NodeFiles, tmp_path: Path) -> None:
    half = node.root.parent / ".other.abc123"
    half.mkdir()
    (half / ".node.json.tmp").write_text("{")
    mine = node.root.parent / ".mine.backup"
    mine.mkdir()
    (mine / "weights").write_text("precious")
    partial = node.checkpoints / ".partial-00000007"
    (partial / "model").mkdir(parents=True)
    for path in (half, mine, partial):
        age(path)
    found = swarm.leftovers(here(tmp_path))
    assert found.status is Status.WARNING
    assert found.fix is not None
    lock = os.open(node.lock, os.O_RDWR)
    assert locks.acquire(lock)
    assert "partial" not in found.fix()
    assert (half.exists(), partial.exists(), mine.exists()) == (False, True, True)
    assert swarm.leftovers(here(tmp_path)).status is Status.OK
    os.close(lock)
    again = swarm.leftovers(here(tmp_path))
    assert again.fix is not None
    again.fix()
    assert not partial.exists()
    assert swarm.leftovers(here(tmp_path)).status is Status.OK


def save(files: NodeFiles, step: int) -> Path:
    store = CheckpointStore(files.checkpoints, 3, discard)
    return store.save(step, step, lambda place: (place / "weights").write_text("x" * 100) and None).path


def test_damaged_checkpoints_are_reported(node: NodeFiles) -> None:
    assert swarm.checkpoints(make("demo")).text == "none yet"
    save(node, 1)
    newest = save(node, 2)
    assert swarm.checkpoints(make("demo")).status is Status.OK
    (newest / "weights").write_text("y" * 100)
    found = swarm.checkpoints(make("demo"))
    assert found.status is Status.WARNING
    assert "00000002 of node demo is damaged (weights has changed)" in found.text
    newest.rename(node.checkpoints / "damaged-00000002")
    found = swarm.checkpoints(make("demo"))
    assert "1 damaged checkpoint set aside" in found.text
    assert os.system(found.remedy or "false") == 0
    assert swarm.checkpoints(make("demo")).status is Status.OK


def test_large_checkpoints_are_verified_only_with_deep(node: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "QUICK", 10)
    (save(node, 1) / "weights").write_text("y" * 100)
    assert "1 large checkpoint verified only with --deep" in swarm.checkpoints(make("demo")).text
    assert swarm.checkpoints(make("demo", deep=True)).status is Status.WARNING


def test_checkpoints_of_a_running_node_are_not_verified(node: NodeFiles, holder: int) -> None:
    (save(node, 1) / "weights").write_text("being written")
    assert swarm.checkpoints(make("demo")).status is Status.OK
