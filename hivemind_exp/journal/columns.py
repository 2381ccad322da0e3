"""Columns that journals of older versions lack."""

import sqlite3

_LATER = {"model": "TEXT", "usd": "REAL", "terms": "TEXT", "conversation": "TEXT"}
"""Columns of ``completions`` that were added after the first version."""


def missing(db: sqlite3.Connection) -> list[str]:
    """Return the columns that a journal lacks. Empty if it has no completions yet. Raises ``sqlite3.Error``."""
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(completions)")}
    return [name for name in _LATER if known and name not in known]


def add_missing(db: sqlite3.Connection) -> None:
    """Add the columns that a journal lacks, without values. Raises ``sqlite3.Error``."""
    for name in missing(db):
        db.execute(f"ALTER TABLE completions ADD COLUMN {name} {_LATER[name]}")
