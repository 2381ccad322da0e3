"""Delete old rounds from a journal, so that its size stays limited.

Manifests stay, so replays are as exact as before.
"""

import sqlite3
from contextlib import suppress

_TABLES = ("prompts", "notes", "completions", "lost")
_ROUNDS_AT_ONCE = 100
_MOST_ROUNDS = 1000
"""The number of rounds that one call may delete. An old journal with many more shrinks over several calls."""
_WORTH_BYTES = 64 << 20
"""The file shrinks once it has this many unused bytes. Until then, SQLite reuses them for the next rounds."""


def total_cost(db: sqlite3.Connection) -> float:
    """Return what all of a journal's completions cost in USD, deleted ones included. Raises ``sqlite3.Error``."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name IN ('completions', 'pruned')")}
    return sum(float(db.execute(f"SELECT TOTAL(usd) FROM {table}").fetchone()[0]) for table in tables)


def delete_rounds(db: sqlite3.Connection, swarm: str, before: int) -> None:
    """Delete prompts and completions of the rounds before ``before``. Their cost stays recorded.

    Raises ``sqlite3.Error``.
    """
    db.execute("CREATE TABLE IF NOT EXISTS pruned (usd REAL)")
    oldest = [db.execute(f"SELECT MIN(round) FROM {table} WHERE swarm=?", (swarm,)).fetchone()[0] for table in _TABLES]
    start = min((round_ for round_ in oldest if round_ is not None), default=before)
    for first in range(start, min(before, start + _MOST_ROUNDS), _ROUNDS_AT_ONCE):
        end = min(first + _ROUNDS_AT_ONCE, before)
        db.execute("BEGIN IMMEDIATE")
        with db:  # commits, or rolls back
            cost = "INSERT INTO pruned SELECT TOTAL(usd) FROM completions WHERE swarm=? AND round<? HAVING TOTAL(usd)>0"
            db.execute(cost, (swarm, end))
            for table in _TABLES:
                db.execute(f"DELETE FROM {table} WHERE swarm=? AND round<?", (swarm, end))
    unused, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
    if unused * size > _WORTH_BYTES and unused * 2 > db.execute("PRAGMA page_count").fetchone()[0]:
        with suppress(sqlite3.OperationalError):  # another process reads it, or the disk is full: next time
            db.execute("VACUUM")
