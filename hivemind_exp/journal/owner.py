"""The node that a journal belongs to."""

import shlex
import sqlite3
from pathlib import Path

from hivemind_exp.node_id import NodeId, of_another_node

_SCHEMA = "CREATE TABLE IF NOT EXISTS owner (id TEXT, name TEXT)"


def claim(db: sqlite3.Connection, path: Path, node: NodeId | None) -> None:
    """Record a node in its journal; None: change nothing. ``db``: the journal, whose file is ``path``.

    Raises ``NodeConflict`` if another node wrote it, and ``sqlite3.Error``.
    """
    if node is None:
        return
    db.execute(_SCHEMA)
    found = [NodeId(*row) for row in db.execute("SELECT id, name FROM owner")]
    for other in found:
        if not node.owns(other):
            place = shlex.quote(str(path.parent / "other-node"))
            aside = f"mkdir -p {place} && mv {shlex.quote(str(path))}* {place}"  # with its -wal and -shm files
            raise of_another_node(path, "the journal", other, node, aside)
    if [(each.id, each.name) for each in found] != [(node.id, node.name)]:
        db.execute("BEGIN IMMEDIATE")
        with db:
            db.execute("DELETE FROM owner")
            db.execute("INSERT INTO owner VALUES (?,?)", (node.id, node.name))
