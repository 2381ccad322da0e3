"""What shows that a step was taken as recorded: a digest of its manifest, and what came out of it.

The digests are written with the manifests, before the step, and the results after it. ``StepLog`` reads both, without
changing the journal, so that a step can be repeated and compared.
"""

import hashlib
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp import formats
from hivemind_exp.errors import FileProblem
from hivemind_exp.journal.records import Manifest
from hivemind_exp.list_command import list_command

SCHEMA = """
CREATE TABLE IF NOT EXISTS digests (step INTEGER PRIMARY KEY, sha256 TEXT);
CREATE TABLE IF NOT EXISTS conditions (id INTEGER PRIMARY KEY, body TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS results (step INTEGER PRIMARY KEY, loss REAL, grad_norm REAL, conditions INTEGER);
"""
INSERT_DIGEST = "INSERT OR REPLACE INTO digests VALUES (?,?)"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step gave, and under which conditions."""

    loss: float
    grad_norm: float
    """Before clipping."""
    conditions: str
    """The settings and the machine that the step depends on, as JSON."""


def digest(body: bytes) -> str:
    """Return the digest of a packed manifest."""
    return hashlib.sha256(body).hexdigest()


def result_rows(step: int, outcome: StepOutcome) -> Sequence[tuple[str, Sequence[tuple[object, ...]]]]:
    """Return the statements that record a step's result, with their rows."""
    # SQLite has no NaN: it becomes NULL, which is read as NaN.
    found = "(SELECT id FROM conditions WHERE body=?)"
    return (
        ("INSERT OR IGNORE INTO conditions (body) VALUES (?)", [(outcome.conditions,)]),
        (
            f"INSERT OR REPLACE INTO results VALUES (?,?,?,{found})",
            [(step, outcome.loss, outcome.grad_norm, outcome.conditions)],
        ),
    )


def replacement_rows(manifest: Manifest) -> Sequence[tuple[str, Sequence[tuple[object, ...]]]]:
    """Return the statements that replace a step's manifest, with their rows."""
    body = manifest.pack()
    return (
        ("UPDATE manifests SET body=? WHERE step=?", [(body, manifest.step)]),
        (INSERT_DIGEST, [(manifest.step, digest(body))]),
    )


def open_manifest(step: int, body: bytes, recorded: str | None) -> Manifest:
    """Return a step's manifest. ``recorded``: its digest, None in journals of older versions.

    Raises ``ValueError`` if it has changed since it was written, or has an unknown format, and ``TypeError``.
    """
    if recorded is not None and digest(body) != recorded:
        raise ValueError("its rows have changed since they were written")
    manifest = Manifest.unpack(body)
    if manifest.step != step:
        raise ValueError(f"its rows are those of step {manifest.step + 1}")
    return manifest


class StepLog:
    """A journal's steps, as they are when it is opened. Reads only, so the node may be running.

    Raises ``FileProblem`` if the journal cannot be read, ``NewerFormat`` if a newer version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            self._db.execute("BEGIN")  # until ``close``, so that a running node deletes nothing that is read here
            formats.check_number(path, self._db.execute("PRAGMA user_version").fetchone()[0])
            tables = self._db.execute("SELECT name FROM sqlite_master WHERE type='table'")
            self._tables = {str(name) for (name,) in tables}
        except sqlite3.Error as error:
            raise FileProblem(f"cannot read the journal {path}: {error}", next=list_command(path)) from error

    def close(self) -> None:
        self._db.close()

    def taken(self) -> int:
        """Return how many steps the node has committed."""
        last = [self._rows(table, f"SELECT MAX(step) FROM {table}") for table in ("manifests", "turns")]
        return max((step + 1 for rows in last for (step,) in rows if step is not None), default=0)

    def kept(self) -> list[int]:
        """Return the steps whose manifests still exist, in order."""
        return [step for (step,) in self._rows("manifests", "SELECT step FROM manifests ORDER BY step")]

    def manifest(self, step: int) -> Manifest:
        """Return a step's manifest. Raises ``FileProblem`` if it is missing, or has changed since it was written."""
        bodies = self._rows("manifests", "SELECT body FROM manifests WHERE step=?", (step,))
        digests = self._rows("digests", "SELECT sha256 FROM digests WHERE step=?", (step,))
        try:
            if not bodies:
                raise ValueError("it has been deleted")
            return open_manifest(step, bodies[0][0], digests[0][0] if digests else None)
        except (ValueError, TypeError) as error:
            message = f"step {step + 1} cannot be read from the journal {self._path}: {error}"
            raise FileProblem(message, next=list_command(self._path)) from error

    def restored(self) -> frozenset[int]:
        """Return the steps before which the weights were replaced by earlier ones. No replay leads across them."""
        return frozenset(step for (step,) in self._rows("restorations", "SELECT step FROM restorations"))

    def damaged(self) -> dict[int, FileProblem]:
        """Return the steps whose manifests are damaged, with the errors."""
        found = {}
        for step in self.kept():
            try:
                self.manifest(step)
            except FileProblem as error:
                found[step] = error
        return found

    def outcome(self, step: int) -> StepOutcome | None:
        """Return a step's recorded result; None if it was not finished, or the version that took it recorded none."""
        query = "SELECT loss, grad_norm, body FROM results JOIN conditions ON conditions.id=results.conditions"
        for loss, norm, body in self._rows("results", f"{query} WHERE step=?", (step,)):
            return StepOutcome(_number(loss), _number(norm), body)
        return None

    def stage(self, step: int) -> tuple[int, str] | None:
        """Return a step's round and stage; None if they were not recorded."""
        for round_, stage in self._rows("turns", "SELECT round, stage FROM turns WHERE step=?", (step,)):
            return round_, stage
        return None

    def _rows(self, table: str, query: str, values: Sequence[object] = ()) -> list[Any]:
        return self._db.execute(query, values).fetchall() if table in self._tables else []


def _number(value: float | None) -> float:
    return math.nan if value is None else value
