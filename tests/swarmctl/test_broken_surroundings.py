"""Every command reports closed or full streams, file size limits, missing inodes and deleted directories."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.command_line import ROOT, STAND_IN, SWARMCTL
from tests.support.every_command import COMMANDS
from tests.support.forked_swarmctl import ForkedSwarmctl
from tests.support.full_disk import mounted_disk
from tests.support.journals import contents, mixed_node
from tests.support.patience import finish
from tests.support.piped_swarmctl import PipedSwarmctl
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SOME = [
    "status",
    "rollouts export",
    "profiles new mine --from demo --rounds 3 --yes --no-input",
    "run -p demo",
    "no-such-command",
]
SOME += ["tasks show spell_backward", "rollouts stats", "fork maths tea", "rename maths tea", "rm maths --yes"]
SOME += ["keys set mybox --host http://localhost/v1 --no-test --insecure-storage", "swarm new mine -p demo"]
"""Commands that read, write, print much, start a trainer or fail at once."""
STARTED = ["status", "run -p demo", "swarm new mine -p demo", "no-such-command"]
"""Those of ``SOME`` that are started as users do: one that reads, those that start a trainer, and one that fails."""
ALSO_STARTED = [*STARTED, "--version", "--help", "status --json", "restart maths"]
"""Commands that are started as users do; ``restart`` starts itself again. The others are forked."""
SILENT = ("set", "delete", "import", "leave", "backup", "restore", "new", "logs", "run -p demo", "no-such", "out.jsonl")
SILENT += (
    "init",
    "stop",
    "restart",
    "attach",
    "edit",
    "sample",
    "chat",
    "eval",
    "export maths",
    "fork",
    "rename",
    "rm ",
)
"""Parts of commands that print nothing on stdout, or fail for another reason first."""


def prepare(place: Path) -> tuple[Path, dict[str, str]]:
    """Make a separate directory and home, and a file with a key. Return the directory and more variables."""
    user, directory = place / "user", place / "cwd"
    user.mkdir()
    directory.mkdir()
    (directory / "theirs.yaml").write_text("training:\n  max_rounds: 3\n")
    (directory / "keys.env").write_text("OPENAI_API_KEY=sk-0123456789abcdef\n")
    (place / "key").write_text("sk-0123456789abcdef\n")
    return directory, {"HOME": str(user), "PYTHONPATH": str(ROOT)}


def forked(
    command: str, place: Path, kind: type[ForkedSwarmctl] = ForkedSwarmctl, **how: Any
) -> subprocess.CompletedProcess[bytes]:
    """Do as ``outcome`` does, without the imports. ``how``: options of ``ForkedSwarmctl``."""
    directory, more = prepare(place)
    process = kind(command.split(), more, place, stand_in=True, directory=directory, stdin=place / "key", **how)
    try:
        out, said = finish(process, 120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.wait(), out.encode(), said.encode())


def outcome(command: str, place: Path, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a separate directory, with a home that has a node. ``how``: options of Popen."""
    directory, more = prepare(place)
    environment = {name: value for name, value in (os.environ | more).items() if name != "PYTHONUNBUFFERED"}
    words = SWARMCTL if command.startswith("-") else STAND_IN
    with (place / "key").open("rb") as key:
        how = {"stdin": key, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
        return subprocess.run([*words, *command.split()], check=False, cwd=directory, env=environment, **how)


def assert_our_words(done: subprocess.CompletedProcess[bytes]) -> str:
    """Assert that a command ended with one of our exit codes, and without a traceback; return its output."""
    said = (done.stdout or b"").decode() + (done.stderr or b"").decode()
    assert not any(word in said for word in ("Traceback", "Exception ignored", "bug in swarmctl")), said
    assert done.returncode in list(Exit), (done.returncode, said)
    return said


def close(*descriptors: int) -> None:
    """Close standard streams, as if this process had been started without them."""
    for each in descriptors:
        os.close(each)
        setattr(sys, ("stdin", "stdout", "stderr")[each], None)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_standard_output(command: str, tmp_path: Path) -> None:
    mixed_node()
    if command in ALSO_STARTED:
        with open("/dev/full", "wb") as full:
            done = outcome(command, tmp_path, stdout=full)
    else:
        done = forked(command, tmp_path, output="/dev/full")
    said = assert_our_words(done)
    if not any(part in command for part in SILENT):
        assert done.returncode != Exit.DONE, said
    if done.returncode == Exit.FAILED:
        assert "error: cannot write to standard output: No space left on device\n  try: df -h ." in said


@pytest.mark.parametrize("command", ["--version", "--help", "status"])
def test_a_directory_that_was_deleted(command: str, tmp_path: Path) -> None:
    done = outcome(command, tmp_path, preexec_fn=lambda: shutil.rmtree(tmp_path / "cwd"))
    said = assert_our_words(done)
    if command == "status":
        assert (done.returncode, "the current directory no longer exists" in said) == (Exit.FAILED, True)


def each_in_a_deleted_directory(directory: Path) -> None:
    """Run every command in this process, whose directory is deleted first. Print the exit codes."""
    shutil.rmtree(directory)
    for command in COMMANDS:
        code = cli.run(command.split())
        print(f"\n{code} {command}", file=sys.stderr, flush=True)


def test_every_command_in_a_directory_that_was_deleted(tmp_path: Path, home: Path) -> None:
    mixed_node()
    kept = contents(home / "nodes/maths")
    done = forked("status", tmp_path, before=partial(each_in_a_deleted_directory, tmp_path / "cwd"))
    said = assert_our_words(done)
    codes = [line for line in said.splitlines() if line.partition(" ")[2] in COMMANDS]
    assert codes == [f"{Exit.FAILED.value} {command}" for command in COMMANDS]
    assert said.count("the current directory no longer exists") == len([*COMMANDS, "status"])
    assert contents(home / "nodes/maths") == kept


@pytest.mark.parametrize("command", SOME)
def test_closed_streams(command: str, tmp_path: Path) -> None:
    mixed_node()
    for number, closed in enumerate(((1,), (2,), (0, 1, 2))):
        (tmp_path / str(number)).mkdir()
        place = tmp_path / str(number)
        if command in STARTED:
            how = {name: None for name, descriptor in (("stdout", 1), ("stderr", 2)) if descriptor in closed}
            done = outcome(command, place, preexec_fn=partial(close, *closed), **how)
        else:
            done = forked(command, place, before=partial(close, *closed))
        said = assert_our_words(done)
        if closed == (1,) and command in ("status", "rollouts export"):
            assert said == "error: cannot write to standard output: it is closed\n"


@pytest.mark.parametrize("command", SOME)
def test_a_full_standard_error(command: str, tmp_path: Path) -> None:
    mixed_node()
    if command in STARTED:
        with open("/dev/full", "wb") as full:
            done = outcome(command, tmp_path, stderr=full)
    else:
        done = forked(command, tmp_path, errors="/dev/full")
    assert_our_words(done)
    works = command not in ("no-such-command", "fork maths tea")  # the node has no checkpoint
    assert (done.returncode == Exit.DONE) == works


@pytest.mark.parametrize("command", SOME)
def test_a_limit_on_the_size_of_files(command: str, tmp_path: Path) -> None:
    mixed_node()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    if command in STARTED:
        done = outcome(command, tmp_path, preexec_fn=limit)
    else:
        done = forked(command, tmp_path, PipedSwarmctl, before=limit)
    said = assert_our_words(done)
    if "rollouts stats" in command:  # it only reads
        assert done.returncode == Exit.DONE, said
    if any(word in command for word in ("set", "profiles new", "run", "tasks")):
        assert (done.returncode, "the file size limit is reached" in said) == (Exit.FAILED, True), said
        assert "  try: ulimit -f unlimited" in said


@pytest.mark.parametrize("command", SOME)
def test_a_home_that_is_a_file(command: str, tmp_path: Path, home: Path) -> None:
    home.write_text("")
    done = forked(command, tmp_path)
    said = assert_our_words(done)
    assert (done.returncode, "SWARMCTL_HOME is not a directory" in said) == (Exit.CONFIGURATION, True), said


def test_a_disk_without_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted_disk(tmp_path, "8m,nr_inodes=30") as disk:
        monkeypatch.setenv("SWARMCTL_HOME", str(disk / "home"))
        mixed_node()
        with contextlib.suppress(OSError):
            for number in range(100):
                (disk / str(number)).touch()
        for number, command in enumerate(word for word in SOME if "new" in word or "set" in word or "run" in word):
            (tmp_path / str(number)).mkdir()
            said = assert_our_words(outcome(command, tmp_path / str(number)))
            assert "the disk has no inodes left" in said
            assert "  try: df -i " in said


def test_a_node_whose_directory_is_deleted_while_it_runs(tmp_path: Path, home: Path) -> None:
    node = home / "nodes/demo"
    command = [*STAND_IN, "run", "-p", "demo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: (node / "events.jsonl").exists() and b'"round"' in (node / "events.jsonl").read_bytes())
        while node.exists():  # the trainer may write a file meanwhile
            shutil.rmtree(node, ignore_errors=True)
        out, err = finish(process, 120)
    said = assert_our_words(subprocess.CompletedProcess(command, process.returncode, out, err))
    assert "swarmctl run --profile demo --node demo\n" in said  # the name alone would be another, new node
