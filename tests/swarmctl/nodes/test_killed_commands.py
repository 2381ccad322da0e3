"""``kill -9`` before every single change of files: commands that change a node leave the old state or the new one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.events import discard
from hivemind_exp.journal.canary_log import Suspect, read_quarantine, write_quarantine
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from swarmctl.nodes.migrations import plan
from swarmctl.storage.json_file import write_json
from tests.support.journals import SWARM, mixed_node
from tests.support.killed_at import killed_everywhere
from tests.support.nodes import make_config
from tests.support.old_nodes import unpacked

pytestmark = pytest.mark.slow


def command(*words: str) -> None:
    sys.exit(cli.run(list(words)))


@pytest.fixture
def node(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeFiles:
    """A node with a checkpoint and two steps after it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = mixed_node()
    config = make_config(node={"name": "maths"}).model_dump(mode="json")
    write_json(files.config, {"schema": 1, "profile": "demo", "overrides": {}, "config": config})
    files.secret()
    with closing(Journal(files.journal, SWARM)) as journal:
        for step in range(3):
            journal.commit(Manifest(step, step, 0, 1, ()))
    CheckpointStore(files.checkpoints, 2, discard).save(
        1, 1, lambda directory: (directory / "weights").write_bytes(b"w" * 99)
    )
    return files


def listed(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_a_restore_is_whole_or_leaves_nothing(node: NodeFiles, tmp_path: Path) -> None:
    saved = tmp_path / "maths.backup"
    assert cli.run(["backup", "maths", str(saved)]) == Exit.DONE
    assert cli.run(["restore", str(saved), "--as", "whole"]) == Exit.DONE
    names = set(listed(files_of("whole").root))
    shutil.rmtree(node.root)
    moments = 0
    for _ in killed_everywhere(command, "restore", str(saved), step=3):
        moments += 1
        if node.root.exists():  # the backup is restored, and only the last words are missing
            assert set(listed(node.root)) >= names - {"identity.key", "incarnation.json"}
            shutil.rmtree(node.root)
    assert moments > 15
    assert set(listed(node.root)) >= names - {"identity.key", "incarnation.json"}
    # Between the two calls that make a directory, an empty one is left. It is deleted after an hour.
    assert [each for path in node.root.parent.glob(".maths.*") for each in path.iterdir()] == []
    left, other = (node.root.parent / f".{name}.abcd1234" for name in ("maths", "algebra"))
    for path in (left, other):
        path.mkdir(exist_ok=True)
        os.utime(path, (0, 0))
    shutil.rmtree(node.root)
    assert cli.run(["restore", str(saved)]) == Exit.DONE
    assert (left.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize("version", ["1-first", "3-numbered"])
def test_an_upgrade_is_finished_by_the_next_one(version: str, home: Path) -> None:
    files = unpacked(version, home)
    before = listed(files.root)
    upgrade = plan(files)
    moments = 0
    for _ in killed_everywhere(command, "upgrade", "old"):
        moments += 1
        now = listed(files.root)
        assert upgrade.copy.exists() or {name: now.get(name) for name in before} == before
    assert moments > 3
    assert not plan(files).steps
    copied = {name: content for name, content in listed(upgrade.copy).items() if not name.endswith(".sqlite")}
    assert copied
    assert all(before[name] == content for name, content in copied.items())
    rows = dumped(files.journal)
    shutil.rmtree(home / "nodes")
    again = unpacked(version, home)
    assert cli.run(["upgrade", "old"]) == Exit.DONE
    assert dumped(again.journal) == rows


def test_a_quarantine_is_lifted_or_not(node: NodeFiles) -> None:
    two = (Suspect("box", 0, 50), Suspect("other", 0, 50))
    write_quarantine(node.quarantine, two)
    for _ in killed_everywhere(command, "quarantine", "maths", "--lift", "box"):
        assert read_quarantine(node.quarantine) in {two, two[1:]}
        write_quarantine(node.quarantine, two)
    assert read_quarantine(node.quarantine) == two[1:]
    left = list(node.root.glob(".quarantine.json.*"))
    assert left
    os.utime(left[0], (0, 0))
    write_quarantine(node.quarantine, two)
    assert set(node.root.glob(".quarantine.json.*")) == set(left[1:])
