"""Nodes with damaged or newer files: the error says what is wrong, and the suggested command works."""

from __future__ import annotations

import json
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
from tests.support.command_line import UNTRAINED, Cli, run_process, told, write_profile
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


def stored(home: Path) -> list[Path]:
    """Return every file with a format number in a home directory, relative to it."""
    found = [*home.rglob("*.json"), *home.rglob("*.sqlite")]
    return sorted(path.relative_to(home) for path in found if "model" not in path.parts)


def number(path: Path, change: int = 0) -> int | None:
    """Return a file's format number, after raising it by ``change``."""
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version={found + change}")
            return int(found) + change
    content = json.loads(path.read_bytes())
    if change:
        content["schema"] += change
        path.write_text(json.dumps(content))
    found = content.get("schema")
    return None if found is None else int(found)


def test_every_file_has_a_format_number_and_a_newer_one_is_refused(node: NodeFiles, home: Path, stand_in: Cli) -> None:
    base = {path.name for path in (node.root / "base").iterdir()} if (node.root / "base").exists() else set()
    files = [path for path in stored(home) if path.name not in base]
    names = {path.name for path in files}
    assert names >= {"config.json", "node.json", "run.json", "journal.sqlite", "checkpoint.json"}
    for path in files:
        assert number(home / path) == 1, path
        number(home / path, 1)
        before = (home / path).read_bytes()
        database = path.suffix == ".sqlite"  # the trainer opens these
        refused = run() if database else stand_in("run", "--node", "n", "--rounds", "6")
        assert refused.returncode == Exit.CONFIGURATION, (path, refused.stderr)
        cause, following = told(refused)
        assert f"{path.name} has format 2" in cause
        assert "git" in following or "--version" in following
        assert (home / path).read_bytes() == before, path
        number(home / path, -1)
    assert run().returncode == Exit.DONE
