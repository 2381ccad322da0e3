"""``run.json``: whether a node has begun, and how its latest run began and ended.

The events are a log, which users can rotate or delete. Events that decide something are therefore also in this file,
which is written atomically.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write

PASSING = frozenset({"identity_elsewhere"})
"""Codes of errors that do not end a run."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The contents of ``run.json``. Events are as in the log; None if they have not happened in the latest run."""

    begun: bool = False
    """Whether any run finished its setup. From then on, the node's model and tasks are fixed."""
    start: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """The error that ended the run."""
    stop: dict[str, Any] | None = None


def read_record(path: Path) -> RunRecord | None:
    """Return what ``run.json`` contains; None if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        stored = json.loads(path.read_bytes())
        begun, *events = (stored[field.name] for field in fields(RunRecord))
        if begun in (True, False) and all(event is None or isinstance(event, dict) for event in events):
            return RunRecord(bool(begun), *events)
    return None


def open_record(path: Path) -> None:
    """Record that a run is about to start. It counts as interrupted until it reports how it ended. Raises OSError."""
    write_record(path, RunRecord(begun=(read_record(path) or RunRecord()).begun))


def write_record(path: Path, record: RunRecord) -> None:
    """Raises OSError."""
    atomic_write.write(path, json.dumps({"schema": 1, **asdict(record)}) + "\n")
