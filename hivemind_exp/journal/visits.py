"""The journal's visits: how the node's completions did on each question, for what chooses questions and rewards."""

import dataclasses
import sqlite3
from collections.abc import Sequence

from hivemind_exp.journal.records import Visit

SCHEMA = """
CREATE TABLE IF NOT EXISTS visits (
    step INTEGER, number INTEGER, round INTEGER, task TEXT, position INTEGER, level INTEGER,
    completions INTEGER, correct INTEGER, strict INTEGER,
    PRIMARY KEY (step, number)
) WITHOUT ROWID;
"""
INSERT = "INSERT INTO visits VALUES (?,?,?,?,?,?,?,?,?)"


def rows(step: int, visits: Sequence[Visit]) -> list[tuple[object, ...]]:
    """Return the rows to insert for a step."""
    return [(step, number, *dataclasses.astuple(visit)) for number, visit in enumerate(visits)]


def of_task(db: sqlite3.Connection, task: str, first: int, before: int) -> list[Visit]:
    """Return a task's visits in the rounds from ``first`` to ``before`` (not included), in order."""
    query = (
        "SELECT round, task, position, level, completions, correct, strict FROM visits "
        "WHERE task=? AND round>=? AND round<? ORDER BY step, number"
    )
    return [Visit(*row) for row in db.execute(query, (task, first, before))]


def formats(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return each step's visited completions, and how many of them are in exactly the requested format."""
    return db.execute("SELECT SUM(completions), SUM(strict) FROM visits GROUP BY step ORDER BY step").fetchall()
