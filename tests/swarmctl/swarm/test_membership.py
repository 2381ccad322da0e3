"""A node in its swarm: which settings it may change, how it leaves, and which charters it joins."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.records import PeerBook
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation, parse
from swarmctl.doctor.check import Status
from swarmctl.doctor.checks import swarm as membership
from swarmctl.errors import Exit
from swarmctl.storage import node_lock as locks
from tests.support.command_line import STAND_IN, Cli, write_profile
from tests.support.doctor import make
from tests.support.invitations import advice, invitation, made, request
from tests.support.terminals import expect_words, rest_of, spawn

pytestmark = pytest.mark.usefixtures("no_leftovers")


@pytest.mark.slow
def test_a_node_stays_in_its_swarm_with_another_profile(here: Cli, home: Path, tea: str) -> None:
    assert here("run", "--join", tea, "--node", "two").returncode == Exit.DONE
    write_profile(home, "more", 'extends = "demo"\n[game]\nrounds = 3\n')
    done = here("run", "--node", "two", "-p", "more")
    assert done.returncode == Exit.DONE, done.stderr
    assert request(home, "two")["config"]["swarm"]["join"] == tea
    assert request(home, "two")["config"]["game"]["rounds"] == 3
    refused = here("run", "--node", "two", "--fresh")
    assert "create a new node with this one's invitation" in refused.stderr
    assert advice(refused.stderr) == ["swarm", "invite", "two"]


@pytest.mark.slow
def test_a_damaged_charter_is_fetched_again_with_the_suggested_command(here: Cli, home: Path, tea: str) -> None:
    files = NodeFiles(home / "nodes/tea")
    good = files.charter.read_bytes()
    files.charter.write_bytes(good + b" ")
    done = here("run", "--node", "tea")
    assert done.returncode == Exit.CONFIGURATION
    assert f"cannot use {files.charter}: invalid charter: it belongs to another swarm" in done.stderr
    assert advice(done.stderr) == ["swarm", "join", "INVITATION", "--node", "tea"]
    (home / "nodes/other").mkdir()
    (home / "nodes/other/charter").write_bytes(good)  # instead of a peer that runs at the invitation's address
    again = here(*[tea if word == "INVITATION" else word for word in advice(done.stderr)])
    assert again.returncode == Exit.DONE, again.stderr
    assert files.charter.read_bytes() == good


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--task", "sapo"], "requires tasks = spell_backward, but --task sets another value"),
        (["--set", "game.group_size=4"], "requires game.group_size = 8, but --set sets another value"),
        (["--fresh"], "a node cannot start over in a swarm"),
    ],
)
def test_options_that_contradict_the_charter_are_refused_with_a_fix(
    here: Cli, home: Path, tea: str, words: list[str], expected: str
) -> None:
    done = here("run", "--join", tea, "--node", "two", *words)
    assert done.returncode == Exit.CONFIGURATION
    assert expected in done.stderr
    assert not (home / "nodes/two").exists()
    fixed = here(*advice(done.stderr))
    assert fixed.returncode == Exit.DONE, fixed.stderr
    assert request(home, "two")["config"]["swarm"]["join"] == tea


@pytest.mark.slow
def test_variables_must_agree_with_the_charter(here: Cli, tea: str) -> None:
    done = here("run", "--join", tea, "--node", "two", SWARMCTL_GAME__GROUP_SIZE="4")
    assert "  try: unset SWARMCTL_GAME__GROUP_SIZE" in done.stderr
    params = 'tasks=[{name = "spell_backward", params = {min_word_len = 3, max_word_len = 5}}]'
    agreeing = here("run", "--join", tea, "--node", "two", "--set", params, "--set", "game.group_size=8")
    assert agreeing.returncode == Exit.DONE, agreeing.stderr


@pytest.mark.slow
def test_swarms_are_never_mixed_in_a_node(here: Cli, home: Path, tea: str) -> None:
    coffee = invitation(here("swarm", "new", "coffee").stdout)
    assert here("run", "--join", tea, "--node", "two").returncode == Exit.DONE
    for node in ("two", "tea"):  # one has trained, the other was only created
        done = here("run", "--join", coffee, "--node", node)
        assert done.returncode == Exit.CONFIGURATION
        assert f"node {node} is in swarm {parse(tea).charter[:12]}" in done.stderr
    fixed = here(*advice(done.stderr))
    assert fixed.returncode == Exit.DONE, fixed.stderr
    assert made(home, "tea-2")["swarm"] == parse(coffee).charter
    assert here("run", "-p", "demo", "--node", "demo", "--rounds", "1").returncode == Exit.DONE
    assert "node demo has already trained alone" in here("run", "--join", tea, "--node", "demo").stderr


@pytest.mark.slow
def test_a_node_that_left_can_continue_alone_or_rejoin(here: Cli, home: Path, tea: str) -> None:
    coffee = invitation(here("swarm", "new", "coffee").stdout)
    assert here("run", "--join", tea, "--node", "two").returncode == Exit.DONE
    files = NodeFiles(home / "nodes/two")
    peer = Identity.load(files.key).peer_id
    (files.swarm).mkdir(exist_ok=True)
    PeerBook(files.swarm / "peerbook.json").save(now=True)
    refused = here("swarm", "leave", "--node", "two")
    assert refused.returncode == Exit.CONFIGURATION
    assert "error: leaving swarm tea needs confirmation; nothing was changed" in refused.stderr
    assert advice(refused.stderr) == ["swarm", "leave", "two", "--yes"]
    assert files.charter.exists()
    left = here("swarm", "leave", "--node", "two", "--yes")
    assert left.returncode == Exit.DONE, left.stderr
    assert "Node two has left swarm tea." in left.stdout
    assert "Kept: its key, its trained model" in left.stdout
    commands = [shlex.split(line) for line in left.stdout.splitlines() if line.startswith("  ")]
    continued, rejoined = (words[words.index("run") :] for words in commands)
    assert continued == ["run", "--node", "two", "--rounds", "2"]  # it has finished its only round
    assert rejoined == [*continued, "--join", "INVITATION"]
    assert not files.charter.exists()
    assert Identity.load(files.key).peer_id == peer
    assert here("swarm", "show", "--node", "two").returncode == Exit.CONFIGURATION
    alone = here("run", "--node", "two", "--rounds", "2")
    assert alone.returncode == Exit.DONE, alone.stderr
    config = request(home, "two")["config"]
    assert config["swarm"]["join"] == ""
    assert config["tasks"][0]["name"] == "spell_backward"
    other = here("run", "--node", "two", "--join", coffee)
    assert other.returncode == Exit.CONFIGURATION
    back = here(*(tea if word == "INVITATION" else word for word in rejoined))
    assert back.returncode == Exit.DONE, back.stderr
    assert (files.swarm / "peerbook.json").exists()
    again = here("run", "--node", "two", "--set", "swarm.join=")
    assert advice(again.stderr) == ["swarm", "leave", "--node", "two"]


@pytest.mark.slow
def test_leaving_asks_on_a_terminal(here: Cli, home: Path, tea: str) -> None:
    for answer, left in (("n", False), ("y", True)):
        terminal = spawn([*STAND_IN, "swarm", "leave"])
        expect_words(
            terminal, "Node tea will leave swarm tea. It keeps its key and what it learned. To rejoin, it needs"
        )
        terminal.expect_exact("[y/N] ")
        terminal.sendline(answer)
        said = rest_of(terminal)
        assert ("Node tea has left swarm tea." if left else "Cancelled. Nothing was changed.") in said
        assert (home / "nodes/tea/charter").exists() is not left


@pytest.mark.slow
def test_a_running_node_cannot_leave(here: Cli, home: Path, tea: str) -> None:
    lock = os.open(home / "nodes/tea/lock", os.O_RDWR)
    assert locks.acquire(lock)
    locks.write_holder(lock, os.getpid())
    done = here("swarm", "leave", "--node", "tea")
    os.close(lock)
    assert done.returncode == Exit.CONFIGURATION
    assert "is running" in done.stderr
    assert (home / "nodes/tea/charter").exists()


def elsewhere(tmp_path: Path, home: Path, **changes: Any) -> tuple[Invitation, Path]:
    """Move a changed charter of "tea" to another machine; return the invitation and the file that peers serve."""
    files = NodeFiles(home / "nodes/tea")
    charter = Charter.open(files.charter.read_bytes(), made(home, "tea")["swarm"])
    creator = Identity.load(files.key)
    changed = replace(charter, **changes)
    served = tmp_path / "served"
    served.write_bytes(changed.seal(creator))
    files.charter.unlink()
    return Invitation(changed.id, (f"/ip4/192.0.2.1/tcp/4001/p2p/{creator.peer_id}",)), served


@pytest.mark.slow
def test_a_charter_is_fetched_checked_and_saved(here: Cli, home: Path, tmp_path: Path, tea: str) -> None:
    line, served = elsewhere(tmp_path, home)
    shutil.rmtree(home / "nodes/tea")
    done = here("run", "--join", str(line), "--node", "two", STAND_IN_CHARTER=str(served))
    assert done.returncode == Exit.DONE, done.stderr
    assert "Fetching the charter of swarm" in done.stderr
    assert (home / "nodes/two/charter").read_bytes() == served.read_bytes()
    assert "Fetching the charter" not in here("run", "--node", "two").stderr
    (home / "nodes/two/charter").unlink()
    unnamed = here("run", "--join", str(line), "--rounds", "1", STAND_IN_CHARTER=str(served))
    assert "Node tea (new)" in unnamed.stderr


@pytest.mark.slow
def test_a_forged_charter_is_refused_before_anything_is_created(
    here: Cli, home: Path, tmp_path: Path, tea: str
) -> None:
    line, served = elsewhere(tmp_path, home)
    served.write_bytes(served.read_bytes().replace(b"spell_backward", b"spell_bxckward"))
    done = here("run", "--join", str(line), "--node", "two", STAND_IN_CHARTER=str(served))
    assert done.returncode == Exit.CONFIGURATION
    assert "charter" in done.stderr
    assert not (home / "nodes/two").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": "reasoning-gym 0.1.23"}, ["0.1.23 in the swarm", "-m pip install reasoning-gym==0.1.23"]),
        (
            {"digest": "0" * 64},
            ["other questions on this machine than in the swarm", "pip install --force-reinstall"],
        ),
    ],
)
def test_version_skew_is_refused_with_a_fix(
    *, here: Cli, home: Path, tmp_path: Path, tea: str, change: dict[str, str], expected: list[str]
) -> None:
    (task,) = Charter.open((home / "nodes/tea/charter").read_bytes(), parse(tea).charter).tasks
    line, served = elsewhere(tmp_path, home, tasks=(replace(task, **change),))
    done = here("run", "--join", str(line), "--node", "two", STAND_IN_CHARTER=str(served))
    assert done.returncode == Exit.CONFIGURATION
    assert all(text in done.stderr for text in expected)
    assert not (home / "nodes/two").exists()


@pytest.mark.slow
def test_each_node_must_name_its_question_file(here: Cli, home: Path, tmp_path: Path) -> None:
    own, theirs = tmp_path / "own.jsonl", tmp_path / "theirs.jsonl"
    own.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(40)))
    line = invitation(here("swarm", "new", "files", "--task", str(own), "-p", "cpu").stdout)
    lacking = here("run", "--join", line, "--node", "two", "-p", "cpu")
    assert "each node needs the file of 40 questions" in lacking.stderr
    theirs.write_text(own.read_text().replace("3 + 1", "3 + 2"))
    other = here("run", "--join", line, "--node", "two", "-p", "cpu", "--task", str(theirs))
    assert "task jsonl has other data on this machine (40 questions" in other.stderr
    theirs.write_bytes(own.read_bytes())
    right = here("run", "--join", line, "--node", "two", "-p", "cpu", "--task", str(theirs), "--rounds", "1")
    assert right.returncode == Exit.DONE, right.stderr
    assert here("run", "--node", "two", "--rounds", "2").returncode == Exit.DONE
    assert request(home, "two")["config"]["tasks"][0]["path"] == str(theirs)


@pytest.mark.slow
def test_a_dry_run_of_joining_changes_nothing(here: Cli, home: Path, tea: str) -> None:
    done = here("run", "--join", tea, "--node", "two", "--dry-run", "--all")
    assert done.returncode == Exit.DONE, done.stderr
    assert "group_size = 8 # charter of tea" in done.stdout
    assert "# swarm     tea (" in done.stdout
    assert not (home / "nodes/two").exists()
    found = json.loads(here("run", "--join", tea, "--node", "two", "--dry-run", "--json").stdout)["check"]["swarm"]
    assert (found["id"], found["name"]) == (parse(tea).charter, "tea")


@pytest.mark.slow
def test_doctor_finds_a_copied_key_a_damaged_charter_another_library_and_a_taken_port(
    here: Cli, home: Path, tea: str
) -> None:
    assert membership.charter(make()).status is Status.OK
    assert membership.listen(make()).status is Status.OK
    assert membership.key(make()).status is Status.OK
    assert here("run", "--join", tea, "--node", "two").returncode == Exit.DONE
    files = NodeFiles(home / "nodes/two")
    files.key.write_bytes((home / "nodes/tea/identity.key").read_bytes())
    assert "share the key" in membership.key(make()).text
    files.charter.write_bytes(b"x" * 200)
    assert membership.charter(make()).status is Status.FAILED
