"""Nodes with damaged or newer files: the error says what is wrong, and the suggested command works."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import Exit
from tests.support.command_line import UNTRAINED, run_process, told, write_profile
from tests.support.forked_swarmctl import swarmctl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

SMALL = f"""{UNTRAINED}
[game]
rounds = 6
groups = 2
[checkpoint]
every = 2
keep = 2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a node for five rounds, with checkpoints after the fourth and the fifth."""
    home = tmp_path_factory.mktemp("trained")
    write_profile(home, "small", SMALL)
    command = ("run", "--profile", "small", "--node", "n", "--rounds", "5")
    assert swarmctl(*command, SWARMCTL_HOME=str(home), OMP_NUM_THREADS="1").returncode == 0
    return home


@pytest.fixture
def node(trained: Path, home: Path) -> NodeFiles:
    """A copy of the trained node."""
    shutil.copytree(trained, home)
    return NodeFiles(home / "nodes/n")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return swarmctl("run", "--node", "n", "--rounds", "6", *arguments)


def damage_settings(node: NodeFiles) -> None:
    node.config.write_text("{")


def empty_secret(node: NodeFiles) -> None:
    node.secret_file.write_bytes(b"")


def damage_journal(node: NodeFiles) -> None:
    with node.journal.open("r+b") as file:
        file.write(b"\0" * 4096)


def damage_every_checkpoint(node: NodeFiles) -> None:
    for path in node.checkpoints.glob("0*/trainer.pt"):
        path.write_bytes(b"")


def make_directory(name: str) -> Callable[[NodeFiles], None]:
    def damage(node: NodeFiles) -> None:
        path = node.root / name
        path.unlink()
        path.mkdir()

    damage.__name__ = f"directory instead of {name}"
    return damage


DAMAGE = {
    **{make_directory(name): (f"{name} is a directory", "mv ") for name in ("events.jsonl", "journal.sqlite", "lock")},
    damage_settings: ("config.json is damaged", "run --node n --profile small"),
    empty_secret: ("0 bytes instead of 32", "rm "),
    damage_journal: ("resumes from its newest checkpoint", "mv "),
    damage_every_checkpoint: ("no checkpoint of this node is intact", "run --profile small --node n-2"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_the_suggested_command_works(node: NodeFiles, damage: Callable[[NodeFiles], None]) -> None:
    damage(node)
    failed = run()
    assert failed.returncode in (Exit.CONFIGURATION, Exit.FAILED), failed.stderr
    cause, following = told(failed)
    assert DAMAGE[damage][0] in cause
    assert DAMAGE[damage][1] in following
    program, *words = shlex.split(following)
    done = swarmctl(*words) if program.endswith("swarmctl") else run_process(["bash", "-c", following])
    assert done.returncode == Exit.DONE, done.stderr
    if " run " not in following:
        again = run()
        assert again.returncode == Exit.DONE, again.stderr
        assert "Done after 6 rounds" in again.stderr
        assert ("held-out questions are new" in again.stderr) == (damage is empty_secret)


def test_the_intact_checkpoint_is_used_even_if_the_journal_is_missing_a_step(node: NodeFiles) -> None:
    """The same happens after an older copy of the journal is restored."""
    newest = max(node.checkpoints.glob("0*"))
    (newest / "trainer.pt").write_bytes(b"")
    with closing(sqlite3.connect(node.journal)) as db, db:
        assert db.execute("DELETE FROM manifests WHERE step=4").rowcount == 1
    done = run("--plain")
    assert done.returncode == Exit.DONE, done.stderr
    assert "is damaged" in done.stderr
    assert "the journal is missing step 5: the node continues from there, after round 4" in done.stderr
    assert "Done after 6 rounds" in done.stderr
