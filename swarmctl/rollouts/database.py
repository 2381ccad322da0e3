"""A node's journal and ledger, opened to be read: also while the node runs, and never changed."""

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hivemind_exp.errors import NodeError
from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.lookup import existing_or_latest
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks

_BUSY_S = 5.0
"""How long to wait while the node cleans up its own files."""


def node_with_journal(name: str | None) -> NodeFiles:
    """Return the files of a node that has rollouts; without a name, of the node that said something last.

    Raises ``NodeError`` where there is no such node, or nothing in it yet.
    """
    files = existing_or_latest(name)
    if not files.journal.is_file():
        node = files.root.name
        running = locks.is_held(files.lock)
        raise NodeError(
            f"node {node} has no journal yet: " + ("it is still starting" if running else "it has played no round"),
            next=f"swarmctl logs --follow --node {node}" if running else f"swarmctl run --node {node}",
        )
    return files


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file and see it as it is at this moment, until the end of the block.

    Raises ``NodeError`` where it cannot be read.
    """
    try:
        with closing(_opened(path)) as db:
            yield db
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {shown(path)}: {error}", next=f"ls -l {shlex.quote(str(path))}") from error


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _begun(path, "mode=ro")
    except sqlite3.OperationalError:
        # A write-ahead log wants a file beside the database, which a read-only disk refuses. What has no log is whole.
        log = Path(f"{path}-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        return _begun(path, "mode=ro&immutable=1")


def _begun(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()  # what is read from here on is of one moment
    except BaseException:
        db.close()
        raise
    return db
