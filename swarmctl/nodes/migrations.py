"""Bring the files of a node that an older version wrote to the current format, in numbered steps.

Before the first step, a copy of the files that change is kept. Each step can be repeated, and its number is recorded
when it is complete, so an upgrade that was interrupted continues where it stopped. Checkpoints never change.
"""

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.errors import FileProblem
from hivemind_exp.formats import FORMAT, NODE_FORMAT, check_number, set_aside
from hivemind_exp.journal import audit, columns
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import RunRecord, write_record
from swarmctl.nodes.history import has_begun
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.storage.staging import staged
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer

KEPT = "before-format-"
"""Begins the name of the directory, in the node's, with the files as they were before an upgrade."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a step does to one file."""

    file: Path
    what: str
    """In words, after the file's name."""
    make: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an upgrade."""

    number: int
    """The node's format afterwards."""
    title: str
    find: Callable[[NodeFiles], Sequence[Change]]
    """Returns what a node still needs. Changes nothing."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The steps that a node needs, with what they change."""

    files: NodeFiles
    before: int
    """The node's format."""
    steps: tuple[tuple[Step, tuple[Change, ...]], ...]

    @property
    def changes(self) -> bool:
        """Whether any file needs more than the node's new number."""
        return any(found for _, found in self.steps)

    @property
    def copy(self) -> Path:
        """The directory for the copy of what changes."""
        return self.files.root / f"{KEPT}{NODE_FORMAT}"

    def apply(self) -> None:
        """Take the steps. The node must not be running. Raises FileProblem if a file is damaged, DiskFull."""
        if not self.steps:
            return
        with disk_errors(self.files.root):
            if self.changes and not self.copy.exists():
                self._keep_copy()
            for step, _ in self.steps:
                for change in step.find(self.files):  # anew, because the steps before it have changed files
                    change.make()
                made = read_json(self.files.identity) or {}
                write_json(self.files.identity, made | {"format": step.number})

    def _keep_copy(self) -> None:
        changed = dict.fromkeys([self.files.identity, *(each.file for _, found in self.steps for each in found)])
        with staged(self.copy) as staging:
            for path in changed:
                if path.suffix == ".sqlite":
                    with _opened(path) as old, closing(sqlite3.connect(staging / path.name)) as new:
                        old.backup(new)
                elif path.exists():
                    shutil.copy2(path, staging / path.name)
            os.rename(staging, self.copy)


def plan(files: NodeFiles) -> Upgrade:
    """Return what a node needs. Changes nothing.

    Raises FileProblem if a file is damaged, NewerFormat if a newer version wrote the node.
    """
    before = (read_json(files.identity) or {}).get("format", 0)
    check_number(files.identity, before, NODE_FORMAT)
    steps = [step for step in STEPS if step.number > before]
    return Upgrade(files, before, tuple((step, tuple(step.find(files))) for step in steps))


def upgrade_and_tell(files: NodeFiles) -> None:
    """Upgrade a node before it runs, and print a line if an older version wrote its files. Raises as ``plan``."""
    upgrade = plan(files)
    upgrade.apply()
    if upgrade.changes:
        say = Writer(sys.stderr)
        say(
            f"Upgraded node {files.root.name} from format {upgrade.before} to {NODE_FORMAT}. The previous files are "
            f"in {shown(upgrade.copy)}"
        )


def _number_files(files: NodeFiles) -> list[Change]:
    """Find files without a format number, and the record that the first version did not write."""
    found = []
    for path in (files.config, files.prompt, files.inputs, files.consent, files.spent):
        stored = read_json(path)
        if stored is not None and "schema" not in stored:

            def number(path: Path = path, stored: dict[str, object] = stored) -> None:
                write_json(path, {"schema": FORMAT, **stored})

            found.append(Change(path, "gets its format number", number))
    for path in (files.journal, files.ledger):
        if path.exists() and _asked(path, "PRAGMA user_version") == 0:

            def mark(path: Path = path) -> None:
                _execute(path, f"PRAGMA user_version={FORMAT}")

            found.append(Change(path, "gets its format number", mark))
    if not files.run.exists() and has_begun(files):
        found.append(Change(files.run, "is created", lambda: write_record(files.run, RunRecord(begun=True))))
    return found


def _add_columns(files: NodeFiles) -> list[Change]:
    """Find columns that the first versions' journals lack."""
    if not files.journal.exists():
        return []
    with _opened(files.journal) as db:
        missing = columns.missing(db)

    def add() -> None:
        with _opened(files.journal, write=True) as db, db:
            columns.add_missing(db)

    return [Change(files.journal, f"gets the columns {', '.join(missing)}", add)] if missing else []


def _protect_steps(files: NodeFiles) -> list[Change]:
    """Find steps whose rows have no digest yet."""
    if not files.journal.exists():
        return []
    tables = {"manifests", "digests"}
    names = ",".join(f"'{name}'" for name in sorted(tables))
    known = _asked(files.journal, f"SELECT COUNT(*) FROM sqlite_master WHERE name IN ({names})")
    missing = "" if known < len(tables) else " WHERE step NOT IN (SELECT step FROM digests)"
    count = 0 if known == 0 else _asked(files.journal, f"SELECT COUNT(*) FROM manifests{missing}")
    if not count:
        return []

    def protect() -> None:
        with _opened(files.journal, write=True) as db:
            db.executescript(audit.SCHEMA)
            rows = db.execute(
                "SELECT step, body FROM manifests WHERE step NOT IN (SELECT step FROM digests)"
            ).fetchall()
            with db:
                db.executemany(audit.INSERT_DIGEST, [(step, audit.digest(body)) for step, body in rows])

    return [Change(files.journal, f"gets digests of the rows of {several(count, 'step')}", protect)]


STEPS = (
    Step(1, "number the files", _number_files),
    Step(2, "add the columns that the journal lacks", _add_columns),
    Step(3, "protect the rows of steps", _protect_steps),
)
"""In order. A step is never changed: nodes of every older version must get through all of them."""


@contextmanager
def _opened(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a database for the block. Raises FileProblem if it is damaged."""
    where = f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
    try:
        with closing(sqlite3.connect(where, uri=True)) as db:
            yield db
    except sqlite3.Error as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: sqlite3.Error) -> FileProblem:
    return FileProblem(f"{shown(path)} cannot be upgraded: {error}", next=set_aside(path))


def _asked(path: Path, query: str) -> int:
    with _opened(path) as db:
        return int(db.execute(query).fetchone()[0])


def _execute(path: Path, statement: str) -> None:
    with _opened(path, write=True) as db, db:
        db.execute(statement)
