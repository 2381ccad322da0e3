"""Nodes of older versions are upgraded in numbered steps, and go on.

``tests/data/nodes`` holds node directories that older versions made: tiny models with adapters that have taken five
steps, with a checkpoint after the third.

==============  ======================================================================
1-first         the first version: no ``run.json``, manifests in format 1
2-run-record    with ``run.json``, stages and sources in the journal; manifests in format 2
3-numbered      with format numbers in the databases
4-rested        with visits in the journal; manifests in format 3
==============  ======================================================================
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.journal.audit import StepLog, digest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import read_record
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import opened
from swarmctl.nodes.migrations import STEPS, plan
from swarmctl.settings.command_line import last_config
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json, write_json
from tests.support.journals import bare_node, contents
from tests.support.nodes import run
from tests.support.old_nodes import DATA, unpacked

OLD = sorted(path.name.removesuffix(".tar.xz") for path in DATA.iterdir())


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, home: Path) -> NodeFiles:
    return unpacked(request.param, home)


@pytest.fixture
def first(home: Path) -> NodeFiles:
    return unpacked("1-first", home)


def test_the_first_version_is_shown_what_its_journal_gets(first: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["upgrade", "old", "--dry-run"]) == Exit.DONE
    assert "    journal.sqlite gets the columns model, usd, terms, conversation\n" in capsys.readouterr().out


def test_a_dry_run_changes_nothing(old: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(old.root)
    assert cli.run(["upgrade", "old", "--dry-run"]) == Exit.DONE
    said = capsys.readouterr().out
    assert "Node old would be upgraded from format 0 to 3:" in said
    assert "journal.sqlite gets digests of the rows of 2 steps" in said
    assert "Nothing was changed." in said
    assert contents(old.root) == before


def test_an_upgrade_keeps_a_copy_and_is_taken_once(old: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(old.root)
    assert cli.run(["upgrade", "old", "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert [step["number"] for step in found["steps"]] == [1, 2, 3]
    assert (found["before"], found["after"]) == (0, 3)
    kept = Path(found["copy"])
    assert (kept / "node.json").read_bytes() == before["node.json"]
    with closing(sqlite3.connect(kept / "journal.sqlite")) as db:
        assert db.execute("SELECT step FROM manifests").fetchall() == [(3,), (4,)]
        assert db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='digests'").fetchone() == (0,)
    record = read_record(old.run)
    assert record is not None
    assert record.begun
    with closing(sqlite3.connect(old.journal)) as db:
        rows = db.execute("SELECT body, sha256 FROM manifests JOIN digests USING (step)").fetchall()
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert [digest(body) for body, _ in rows] == [sha256 for _, sha256 in rows] != []
    assert cli.run(["upgrade", "old"]) == Exit.DONE
    assert capsys.readouterr().out == "Node old is up to date (format 3).\n"


@pytest.mark.slow
def test_an_old_node_goes_on(old: NodeFiles) -> None:
    with opened(last_config(old), lambda name: name) as node:
        assert node.resumes
    config = last_config(old)
    config = config.model_copy(update={"game": config.game.model_copy(update={"rounds": 7})})
    progress = run(config, old.root)
    assert (progress.round, progress.step) == (7, 7)
    assert progress.checkpoint is not None
    with closing(StepLog(old.journal)) as log:
        assert log.taken() == 7
        # The steps after the checkpoint were repeated from the old journal.
        assert [log.outcome(step) is not None for step in range(7)] == [False] * 3 + [True] * 4


def test_a_run_upgrades_and_says_so(first: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(last_config(first), lambda name: name):
        pass
    said = capsys.readouterr().err
    assert "Upgraded node old from format 0 to 3. The previous files are in" in said
    with opened(last_config(first), lambda name: name):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("done", range(1, 7))
def test_an_interrupted_upgrade_goes_on_where_it_stopped(
    done: int, first: NodeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (first.root / "node.json").read_bytes()
    left = [done]

    def ending(path: Path, value: object, write: object = write_json) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        write(path, value)  # type: ignore[operator]

    config = read_json(first.config)
    assert config is not None
    config.pop("schema")
    write_json(first.config, config)
    monkeypatch.setattr("swarmctl.nodes.migrations.write_json", ending)
    interrupted = False
    try:
        plan(first).apply()
    except KeyboardInterrupt:
        interrupted = True
    assert interrupted == (done <= 4)  # the settings, and the node's number after each step
    monkeypatch.undo()
    monkeypatch.setenv("SWARMCTL_HOME", str(first.root.parents[1]))
    plan(first).apply()
    assert plan(first).steps == ()
    assert (first.root / "before-format-3" / "node.json").read_bytes() == before
    assert all(not step.find(first) for step in STEPS)


def test_a_newer_node_is_refused(first: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    made = read_json(first.identity)
    assert made is not None
    write_json(first.identity, made | {"format": 4})
    assert cli.run(["upgrade", "old"]) == Exit.CONFIGURATION
    assert "has format 4, from a newer version of swarmctl; this version reads formats up to 3" in (
        capsys.readouterr().err
    )


def test_a_running_node_is_not_upgraded(first: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    with first.lock.open("wb") as lock:
        assert locks.acquire(lock.fileno())
        assert cli.run(["upgrade", "old"]) == Exit.CONFIGURATION
        assert "node old is running; stop it first" in capsys.readouterr().err
        assert cli.run(["upgrade", "old", "--dry-run"]) == Exit.DONE


def test_a_damaged_journal_is_an_error(first: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    first.journal.write_bytes(b"no database" * 1000)
    assert cli.run(["upgrade", "old"]) == Exit.CONFIGURATION
    assert "journal.sqlite cannot be upgraded: file is not a database" in capsys.readouterr().err


def test_a_new_node_has_the_current_format(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare_node()
    assert cli.run(["upgrade", "maths"]) == Exit.DONE
    assert capsys.readouterr().out == "Node maths is up to date (format 3).\n"
