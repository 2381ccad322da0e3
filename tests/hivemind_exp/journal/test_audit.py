"""A step's rows are protected by a digest, and its result is recorded as it was."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.errors import FileProblem
from hivemind_exp.journal.audit import StepLog, StepOutcome
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.source_kinds import Kind


def manifest(step: int) -> Manifest:
    row = TrainingRow(Kind.POLICY, "local", "spelling", 0, (1, 2), (3, 4), "ab", 1.0, 0.5, 0)
    return Manifest(step, step, 7, 4, (row,), tokens=(2, 0))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    with closing(Journal(path, "swarm")) as opened:
        for step in range(4):
            opened.commit(manifest(step))
            opened.write_result(step, StepOutcome(0.1 * step, 1 / 3, '{"threads": 1}'))
    return path


def damage(path: Path, step: int) -> None:
    """Change one token of a step's rows, as a failing disk might. The body still is a valid manifest."""
    with sqlite3.connect(path) as db:
        (body,) = db.execute("SELECT body FROM manifests WHERE step=?", (step,)).fetchone()
        changed = body.replace(b"\x92\x03\x04", b"\x92\x03\x05")
        assert changed != body
        db.execute("UPDATE manifests SET body=? WHERE step=?", (changed, step))


def test_results_are_read_as_they_were_written(journal: Path) -> None:
    with closing(Journal(journal, "swarm")) as opened:
        opened.write_result(3, StepOutcome(math.nan, math.inf, '{"threads": 2}'))
    with closing(StepLog(journal)) as log:
        assert (log.taken(), log.kept()) == (4, [0, 1, 2, 3])
        assert log.outcome(2) == StepOutcome(0.2, 1 / 3, '{"threads": 1}')
        last = log.outcome(3)
        assert last is not None
        assert (math.isnan(last.loss), last.grad_norm, last.conditions) == (True, math.inf, '{"threads": 2}')
        assert log.outcome(4) is None
        assert log.stage(1) == (1, "answer")


def test_changed_rows_are_noticed_by_a_resume_and_by_a_replay(journal: Path) -> None:
    damage(journal, 2)
    with closing(Journal(journal, "swarm")) as opened:
        known = opened.manifests(1)
        assert next(known).step == 1
        with pytest.raises(FileProblem, match="step 3: its rows have changed since they were written"):
            next(known)
    with closing(StepLog(journal)) as log:
        assert log.manifest(1) == manifest(1)
        with pytest.raises(FileProblem, match=r"step 3 cannot be read .*: its rows have changed"):
            log.manifest(2)
        assert list(log.damaged()) == [2]
        with pytest.raises(FileProblem, match=r"step 10 cannot be read .*: it has been deleted"):
            log.manifest(9)


def test_rows_of_another_step_are_noticed(journal: Path) -> None:
    with sqlite3.connect(journal) as db:
        db.execute("UPDATE manifests SET body=(SELECT body FROM manifests WHERE step=1) WHERE step=3")
        db.execute("DELETE FROM digests")  # as in a journal of an older version
    with closing(StepLog(journal)) as log, pytest.raises(FileProblem, match="its rows are those of step 2"):
        log.manifest(3)


def test_deleted_steps_leave_nothing_that_a_later_step_could_be_compared_with(journal: Path) -> None:
    with closing(Journal(journal, "swarm")) as opened:
        opened.forget_manifests(1)
        opened.rewind(3, 3)
    with closing(StepLog(journal)) as log:
        assert log.kept() == [1, 2]
        assert log.outcome(0) is not None  # results are small, and stay
        assert log.outcome(3) is None
    with sqlite3.connect(journal) as db:
        assert db.execute("SELECT step FROM digests ORDER BY step").fetchall() == [(1,), (2,)]


def test_a_journal_of_an_older_version_has_steps_without_results(journal: Path) -> None:
    with sqlite3.connect(journal) as db:
        for table in ("digests", "results", "conditions"):
            db.execute(f"DROP TABLE {table}")
    with closing(StepLog(journal)) as log:
        assert log.manifest(2) == manifest(2)
        assert log.outcome(2) is None


def test_a_file_that_is_no_journal_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(FileProblem, match=r"cannot read the journal .*journal\.sqlite: file is not a database"):
        StepLog(path)
