"""A node with a backup, for tests of ``swarmctl backup`` and ``restore``."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.events import discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage.json_file import write_json
from tests.support.journals import SWARM, mixed_node
from tests.support.nodes import make_config


@pytest.fixture(autouse=True)
def one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def node(home: Path) -> NodeFiles:
    """A node that has spent 0.013 US dollars, and has the checkpoint 4 and steps up to 6."""
    files = mixed_node()
    config = make_config(node={"name": "maths"}).model_dump(mode="json")
    write_json(files.config, {"schema": 1, "profile": "demo", "overrides": {}, "config": config})
    files.secret()
    CheckpointStore(files.checkpoints, 2, discard).save(
        4, 4, lambda directory: (directory / "w").write_bytes(b"w" * 99)
    )
    with closing(Journal(files.journal, SWARM)) as journal:
        for step in range(6):
            journal.commit(Manifest(step, step, 0, 1, ()))
        journal.forget_manifests(4)
    (files.root / "trainer.log").write_text("not in a backup")
    return files


@pytest.fixture
def saved(node: NodeFiles, tmp_path: Path) -> Path:
    target = tmp_path / "maths.backup"
    assert cli.run(["backup", "maths", str(target)]) == Exit.DONE
    return target


def restore(path: Path, *more: str) -> int:
    return cli.run(["restore", str(path), *more])


def message(capsys: pytest.CaptureFixture[str], code: int = Exit.CONFIGURATION, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.run([*arguments, "--json"]) == code
    return str(json.loads(capsys.readouterr().out)["error"]["message"])
