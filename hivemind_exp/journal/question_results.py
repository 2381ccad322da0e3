"""How the node's completions did on each question. What chooses questions and rewards reads it."""

import dataclasses
import sqlite3
from collections.abc import Sequence

from hivemind_exp.journal.records import QuestionResult

SCHEMA = """
CREATE TABLE IF NOT EXISTS visits (
    step INTEGER, number INTEGER, round INTEGER, task TEXT, position INTEGER, level INTEGER,
    completions INTEGER, correct INTEGER, strict INTEGER,
    PRIMARY KEY (step, number)
) WITHOUT ROWID;
"""
INSERT = "INSERT INTO visits VALUES (?,?,?,?,?,?,?,?,?)"


def rows(step: int, results: Sequence[QuestionResult]) -> list[tuple[object, ...]]:
    """Return the rows to insert for a step."""
    return [(step, number, *dataclasses.astuple(result)) for number, result in enumerate(results)]


def of_task(db: sqlite3.Connection, task: str, first: int, before: int) -> list[QuestionResult]:
    """Return a task's results in the rounds from ``first`` to ``before`` (not included), in order."""
    query = (
        "SELECT round, task, position, level, completions, correct, strict FROM visits "
        "WHERE task=? AND round>=? AND round<? ORDER BY step, number"
    )
    return [QuestionResult(*row) for row in db.execute(query, (task, first, before))]


def formats(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return each step's completions that count, and how many of them are in exactly the requested format."""
    return db.execute("SELECT SUM(completions), SUM(strict) FROM visits GROUP BY step ORDER BY step").fetchall()
