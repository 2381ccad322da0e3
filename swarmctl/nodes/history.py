"""A node's past, from its durable files. Nothing here comes from the events alone, because they may be deleted."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hivemind_exp import event_files
from hivemind_exp.game.last_stage import LAST_STAGE
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import RunRecord, read_record
from swarmctl.storage.json_file import read_json

_OF_TRAINING = ("evaluations", "turns", "manifests", "completions")
"""Tables of the journal that are empty until the node has begun."""


def has_begun(files: NodeFiles) -> bool:
    """Whether a trainer has ever started. Until then, the directory is not tied to a model.

    Nodes that are older than ``run.json`` are recognized by their training or their events.
    """
    record = read_record(files.run)
    if record is not None and record.begun:
        return True
    return _has_trained(files) or _logged_a_start(files.events)


def past_evaluations(files: NodeFiles) -> Iterator[dict[str, Any]]:
    """Yield the evaluations in the journal as events."""
    for round_, accuracy, questions in _rows(files, "SELECT round, accuracy, questions FROM evaluations"):
        event = {"event": "eval", "split": "heldout"}
        yield event | {"round": round_, "accuracy": accuracy, "questions": questions}


def rounds_finished(files: NodeFiles) -> int | None:
    """Return how many rounds have a step of their last stage; None before the node's first step.

    A step that is in the journal, but has not been taken yet, does not count: the node's next run takes it.
    """
    (taken,) = next(_rows(files, "SELECT max(step) FROM results"), (None,))  # none in early journals, and of relays
    where = "" if taken is None else f"WHERE step <= {taken:d}"
    found = next(_rows(files, f"SELECT finished, stage FROM turns {where} ORDER BY step DESC LIMIT 1"), None)
    if found is None:
        return None
    game = ((read_json(files.config) or {}).get("config") or {}).get("game") or {}
    return int(found[0]) + int(found[1] == LAST_STAGE[game.get("kind", "sampling")])


def rounds_at_rest(files: NodeFiles) -> int | None:
    """Return how many rounds a node that is not running has finished; None if that is unknown.

    A relay takes no steps, so what its last run recorded counts. A run that stopped while it repeated steps after a
    crash recorded fewer, but has not lost the later rounds.
    """
    stopped = ((read_record(files.run) or RunRecord()).stop or {}).get("round")
    return max((each for each in (stopped, rounds_finished(files)) if each is not None), default=None)


def journal_size(files: NodeFiles) -> int | None:
    """Return the size of the node's journal in bytes; None if it does not exist yet."""
    parts = [path for path in (files.journal, Path(f"{files.journal}-wal")) if path.exists()]
    return sum(path.stat().st_size for path in parts) if parts else None


def last_active(files: NodeFiles) -> float | None:
    """Return the time at which a run last wrote a file, in Unix seconds; None if no run ever did."""
    written = [path for path in (files.run, files.journal, files.events, files.log) if path.exists()]
    log = Path(f"{files.journal}-wal")
    if log.exists() and log.stat().st_size:  # readers of the journal leave an empty one
        written.append(log)
    return max((path.stat().st_mtime for path in written), default=None)


def _has_trained(files: NodeFiles) -> bool:
    if files.checkpoints.is_dir() and any(files.checkpoints.iterdir()):
        return True
    return any(next(_rows(files, f"SELECT 1 FROM {table} LIMIT 1"), None) for table in _OF_TRAINING)


def _logged_a_start(events: Path) -> bool:
    return any(b'"event": "start"' in line for line in event_files.lines(events))


def _rows(files: NodeFiles, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield a query's rows from the journal; none if it is missing, damaged or older than the table."""
    if files.journal.exists():
        where = f"{files.journal.absolute().as_uri()}?mode=ro"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(where, uri=True)) as db:
            yield from db.execute(query).fetchall()
