"""``swarmctl identity``: private keys, backups that can be restored, and no replacement without confirmation."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity, animal_name
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.identity import backup as backups
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import start_over
from tests.support.command_line import ROOT, SWARMCTL, run_process
from tests.support.full_disk import mounted_disk
from tests.support.terminals import rest_of, spawn

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def run() -> Run:
    """Run ``swarmctl identity`` in a separate process, with the most permissive umask."""

    def run(*arguments: str | Path, piped: str = "") -> subprocess.CompletedProcess[str]:
        return run_process([*SWARMCTL, "identity", *map(str, arguments)], input=piped, umask=0)

    return run


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str]) -> Asked:
    """Run ``swarmctl identity … --json`` in this process; return the printed object."""

    def asked(*arguments: str | Path, code: Exit = Exit.DONE) -> dict[str, Any]:
        assert cli.run(["identity", *map(str, arguments), "--json"]) == code
        answer = json.loads(capsys.readouterr().out)
        assert isinstance(answer, dict)
        assert answer.pop("schema") == 1
        return answer

    return asked


@pytest.fixture
def node(home: Path) -> NodeFiles:
    """A new node without an identity."""
    with nodes.opened(Config.model_validate({"node": {"name": "maths"}}), lambda name: name) as made:
        return made.files


@pytest.fixture
def claimed(node: NodeFiles) -> Iterator[Identity]:
    """The node's identity, claimed by another running process."""
    identity = Identity.create(node.key)
    code = (
        "import sys; from pathlib import Path; from hivemind_exp.swarm.identity import claim\n"
        "with claim(Path(sys.argv[1]), sys.argv[2], 'maths'): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(node.claims), identity.peer_id]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield identity
        holder.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_new_show_backup_and_restore(run: Run, home: Path, tmp_path: Path) -> None:
    assert run("show").stdout == f"No nodes yet in {home}/nodes.\n"
    made = run("new", "--node", "first")
    assert made.returncode == Exit.DONE, made.stderr
    files = NodeFiles(home / "nodes/first")
    identity = Identity.load(files.key)
    name = animal_name(identity.peer_id)
    assert made.stdout.splitlines()[0] == f"Node first is {name} ({identity.peer_id})."
    assert made.stdout.rstrip().endswith("identity backup FILE --node first")
    assert (mode(files.key), mode(files.root)) == (0o600, 0o700)
    assert run("show").stdout == f"first  {name}  {identity.peer_id}\n"
    backup = tmp_path / "otter.txt"
    saved = run("backup", backup)
    assert saved.returncode == Exit.DONE, saved.stderr
    assert f"Saved the identity {name} ({identity.peer_id}) to {backup}." in saved.stdout
    assert mode(backup) == 0o600
    assert f"peer {identity.peer_id}\nname {name}\nnode first\n" in backup.read_text()
    restored = run("restore", backup, "--node", "second")
    assert restored.returncode == Exit.DONE, restored.stderr
    assert Identity.load(home / "nodes/second/identity.key").peer_id == identity.peer_id
    assert mode(home / "nodes/second/identity.key") == 0o600
    assert "warning: node first has the same identity; only one of them can run at a time" in restored.stderr
    secret = identity.to_bytes()[4:36]
    for done in (made, saved, restored):
        assert secret.hex() not in done.stdout + done.stderr
    assert sorted(path.name for path in (home / "nodes").iterdir()) == [".identities", "first", "second"]


def test_json_has_fixed_keys(asked: Asked, node: NodeFiles, tmp_path: Path) -> None:
    unset = {"node": "maths", "peer_id": None, "name": None, "file": str(node.key), "running": False, "problem": None}
    assert asked("show") == {"identities": [unset]}
    first = asked("new")
    who = {"node": "maths", "peer_id": first["peer_id"], "name": animal_name(first["peer_id"]), "file": str(node.key)}
    assert first == who | {"replaced": None}
    assert asked("show", "--node", "maths") == {"identities": [who | {"running": False, "problem": None}]}
    saved = asked("backup", tmp_path / "copy")
    assert saved == who | {"file": str(tmp_path / "copy"), "locked": False}
    second = asked("new", "--yes")
    assert second["replaced"] == first["peer_id"] != second["peer_id"]
    assert asked("restore", tmp_path / "copy", "--yes") == who | {"replaced": second["peer_id"]}
    assert asked("restore", tmp_path / "copy") == who | {"replaced": first["peer_id"]}


@pytest.mark.slow
def test_another_identity_is_not_replaced_without_confirmation(asked: Asked, node: NodeFiles, tmp_path: Path) -> None:
    first = asked("new")["peer_id"]
    content = node.key.read_bytes()
    Identity.create(tmp_path / "other")
    for command in (["new"], ["restore", tmp_path / "other"]):
        error = asked(*command, code=Exit.CONFIGURATION)["error"]
        assert error["code"] == "identity"
        assert first in error["message"]
        assert node.key.read_bytes() == content
        assert subprocess.run(shlex.split(error["next"]), cwd=ROOT, capture_output=True, check=False).returncode == 0
        assert node.key.read_bytes() != content
        node.key.write_bytes(content)


def test_a_running_node_keeps_its_identity(asked: Asked, node: NodeFiles, tmp_path: Path) -> None:
    Identity.create(node.key)
    Identity.create(tmp_path / "other")
    content = node.key.read_bytes()
    with nodes.held(node, lambda name: name):
        assert asked("show")["identities"][0]["running"] is True
        for command in (["new", "--yes"], ["restore", tmp_path / "other", "--yes"]):
            error = asked(*command, code=Exit.CONFIGURATION)["error"]
            assert error["code"] == "node_conflict"
            assert f"node maths is already running (pid {os.getpid()}" in error["message"]
            assert error["next"].endswith("status maths")
        asked("backup", tmp_path / "copy")
    assert node.key.read_bytes() == content


def test_a_running_identity_cannot_be_restored_elsewhere(
    asked: Asked, claimed: Identity, node: NodeFiles, tmp_path: Path, home: Path
) -> None:
    asked("backup", tmp_path / "copy", "--node", "maths")
    for source in (tmp_path / "copy", node.key):
        error = asked("restore", source, "--node", "second", "--yes", code=Exit.CONFIGURATION)["error"]
        assert error["code"] == "identity"
        assert "node maths (pid" in error["message"]
        assert claimed.peer_id in error["message"]
    assert not (home / "nodes/second").exists()


def test_the_node_must_be_named_if_there_are_several(
    asked: Asked, node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked("new", "--node", "art")
    for command in (["new"], ["backup", "x"], ["restore", "x"]):
        error = asked(*command, code=Exit.USAGE)["error"]
        assert "2 nodes on this machine; choose one with --node" in error["message"]
        assert error["next"].endswith(f" identity {' '.join(command)} --node art")
    assert [row["node"] for row in asked("show")["identities"]] == ["art", "maths"]
    assert "did you mean maths?" in asked("show", "--node", "math", code=Exit.CONFIGURATION)["error"]["message"]
    assert "did you mean maths?" in asked("backup", "x", "--node", "math", code=Exit.CONFIGURATION)["error"]["message"]
    assert "no identity yet" in asked("backup", "x", "--node", "maths", code=Exit.CONFIGURATION)["error"]["message"]
    Identity.create(tmp_path / "key")
    for command in (["new"], ["restore", str(tmp_path / "key")]):
        error = asked(*command, "--node", "../x", code=Exit.USAGE)["error"]
        assert "invalid --node: '../x'" in error["message"]
    assert [path.name for path in node.root.parents[1].iterdir()] == ["nodes"]


def test_a_backup_does_not_overwrite_files(asked: Asked, node: NodeFiles, tmp_path: Path) -> None:
    asked("new")
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    target.chmod(0o644)
    error = asked("backup", target, code=Exit.CONFIGURATION)["error"]
    assert f"{target} already exists" in error["message"]
    assert error["next"].endswith(f"identity backup {target} --node maths --yes")
    assert target.read_text() == "mine"
    asked("backup", target, "--yes")
    assert mode(target) == 0o600, "others could read the old file; they cannot read the backup"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        asked("backup", tmp_path / name, "--yes", code=Exit.CONFIGURATION)
    asked("backup", tmp_path / "missing/x", code=Exit.FAILED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "home", "notes.txt", "pipe"]


def test_a_linked_key_is_replaced_not_followed(asked: Asked, node: NodeFiles, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    Identity.create(elsewhere)
    node.key.symlink_to(elsewhere)
    content = elsewhere.read_bytes()
    asked("new", "--yes")
    assert elsewhere.read_bytes() == content
    assert not node.key.is_symlink()
    node.key.unlink()
    node.key.symlink_to(tmp_path / "nowhere")
    assert "No such file" in asked("show", code=Exit.CONFIGURATION)["identities"][0]["problem"]
    asked("new", code=Exit.CONFIGURATION)
    asked("new", "--yes")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"\x08\x01\x12\x40short", "damaged"), (b"\x08\x00" + b"x" * 1200, "RSA key")],
)
def test_an_invalid_key_is_reported_and_can_be_replaced(
    asked: Asked, node: NodeFiles, tmp_path: Path, content: bytes, expected: str
) -> None:
    node.key.write_bytes(content)
    node.key.chmod(0o600)
    assert expected in asked("show", code=Exit.CONFIGURATION)["identities"][0]["problem"]
    assert expected in asked("backup", tmp_path / "x", code=Exit.CONFIGURATION)["error"]["message"]
    assert expected in asked("restore", node.key, code=Exit.CONFIGURATION)["error"]["message"]
    assert expected in asked("new", code=Exit.CONFIGURATION)["error"]["message"]
    assert asked("new", "--yes")["replaced"] is None
    assert asked("show")["identities"][0]["problem"] is None


@pytest.mark.slow
def test_a_key_that_others_can_read_is_reported(asked: Asked, node: NodeFiles, tmp_path: Path, run: Run) -> None:
    asked("new")
    node.key.chmod(0o644)
    assert "other users can read" in asked("show", code=Exit.CONFIGURATION)["identities"][0]["problem"]
    assert asked("backup", tmp_path / "x", code=Exit.CONFIGURATION)["error"]["next"] == f"chmod 600 {node.key}"
    node.key.chmod(0o600)
    asked("backup", tmp_path / "x")
    (tmp_path / "x").chmod(0o644)
    restored = run("restore", tmp_path / "x")
    assert restored.returncode == Exit.DONE
    assert f"warning: other users can read {tmp_path}/x (mode 0644)" in restored.stderr


def test_a_full_disk_keeps_the_old_identity(
    node: NodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    asked("new")
    with mounted_disk(tmp_path, "64k") as place:
        monkeypatch.setenv("SWARMCTL_HOME", str(place))
        before = asked("new", "--node", "small")["peer_id"]
        with pytest.raises(OSError, match="No space"):
            (place / "filler").write_bytes(bytes(100_000))
        for command in (["new", "--yes"], ["backup", place / "copy"]):
            error = asked(*command, code=Exit.FAILED)["error"]
            assert error["code"] == "disk_full"
            assert error["next"].startswith("df -h ")
        assert asked("show")["identities"][0]["peer_id"] == before
        assert sorted(path.name for path in place.iterdir()) == ["filler", "nodes"]
        assert not list((place / "nodes/small").glob(".identity.key.*"))


@pytest.mark.slow
def test_a_passphrase_is_piped_in(run: Run, node: NodeFiles, tmp_path: Path) -> None:
    identity = Identity.create(node.key)
    copy = tmp_path / "locked"
    assert run("backup", copy, "--passphrase", piped="correct horse\n").returncode == Exit.DONE
    assert mode(copy) == 0o600
    assert backups.read(copy.read_bytes(), copy, "correct horse").peer_id == identity.peer_id
    wrong = run("restore", copy, "--node", "second", piped="wrong horse\n")
    assert wrong.returncode == Exit.CONFIGURATION
    assert "the passphrase is wrong, or" in wrong.stderr
    assert "wrong horse" not in wrong.stderr
    nothing = run("restore", copy, "--node", "second")
    assert "no passphrase was given" in nothing.stderr
    assert not (node.root.parent / "second").exists()
    assert run("restore", copy, "--node", "second", piped="correct horse").returncode == Exit.DONE
    assert run("backup", tmp_path / "x", "--node", "maths", "--passphrase", piped="\n").returncode == Exit.CONFIGURATION
    assert not (tmp_path / "x").exists()


def identity_on_a_terminal(*arguments: str | Path) -> pexpect.spawn[str]:
    return spawn([*SWARMCTL, "identity", *map(str, arguments)])


@pytest.mark.slow
def test_a_passphrase_is_typed_twice_and_hidden(node: NodeFiles, tmp_path: Path) -> None:
    identity = Identity.create(node.key)
    for second, expected in (
        ("horse battery", "the passphrases do not match"),
        ("correct horse", "Saved the identity "),
    ):
        child = identity_on_a_terminal("backup", tmp_path / "locked", "--passphrase")
        child.expect("Passphrase: ")
        child.sendline("correct horse")
        child.expect("Repeat the passphrase: ")
        child.sendline(second)
        child.expect(expected)
        rest_of(child)
    assert child.exitstatus == Exit.DONE
    assert backups.read((tmp_path / "locked").read_bytes(), tmp_path, "correct horse").peer_id == identity.peer_id
    child = identity_on_a_terminal("restore", tmp_path / "locked")
    child.expect("Passphrase: ")
    child.sendline("correct horse")
    child.expect(f"Node maths is {animal_name(identity.peer_id)}")
    assert "correct horse" not in child.before
    rest_of(child)
    child = identity_on_a_terminal("restore", tmp_path / "locked", "--no-input")
    child.expect(r"prompts are\s+disabled; pipe it in")
    rest_of(child)


@pytest.mark.slow
def test_answering_no_keeps_the_identity(node: NodeFiles) -> None:
    identity = Identity.create(node.key)
    for answer, kept in (("n", True), ("y", False)):
        child = identity_on_a_terminal("new")
        child.expect(r"Without\s+a\s+backup,\s+that\s+identity\s+is\s+lost[^[]*\[y/N\] ")
        child.sendline(answer)
        assert ("Cancelled. The identity is unchanged." in rest_of(child)) is kept
        assert child.exitstatus == (Exit.INTERRUPTED if kept else Exit.DONE)
        assert (Identity.load(node.key).peer_id == identity.peer_id) is kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("key plain CAES", "key plain CAEA"),
        lambda text: text[: text.index("key plain") + 40],
        lambda text: text.replace("key plain C", "key plain é"),
        lambda text: text.replace("peer 12D3", "peer 12D4"),
        lambda text: text.replace("\npeer ", "\npear "),
        lambda text: text.replace("backup 1", "backup 2"),
        lambda text: text.replace("key plain", "key rot13"),
        lambda text: text.replace("key plain", "key scrypt-aes256gcm"),
        lambda text: text[:0],
    ],
)
def test_a_damaged_backup_is_refused(change: Callable[[str], str], tmp_path: Path) -> None:
    whole = backups.written(Identity.generate(), "maths", None).decode()
    path = tmp_path / "copy"
    with pytest.raises(IdentityProblem):
        backups.read(change(whole).encode(), path, "x")


def test_a_node_that_starts_over_keeps_its_identity(node: NodeFiles) -> None:
    identity = Identity.create(node.key)
    start_over.set_aside(node)
    assert Identity.load(node.key).peer_id == identity.peer_id
