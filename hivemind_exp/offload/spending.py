"""What a node has spent in its whole life: from its ledger, or from other records if the ledger is lost.

A cap covers the node's whole life, so it must hold even if ``ledger.sqlite`` is deleted or emptied. The total is
therefore also kept in ``spent.json``. If the ledger is gone, the journal and the newest events count, too. (The
reserves in events are of requests that were in flight, so this may be too high.)
"""

import json
import math
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.formats import check_number
from hivemind_exp.journal.pruning import total_cost
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.ledger import explain, has_requests, total_spent
from hivemind_exp.offload.settings import Endpoint

_TAIL_BYTES = 4 << 20
"""How much of ``events.jsonl`` is searched for the newest total, from its end."""


def spent_so_far(files: NodeFiles) -> float:
    """Return what a node has spent in USD, including reserves of requests whose cost is unknown. Changes nothing.

    Raises ``NodeError`` if the ledger is damaged.
    """
    total, used = 0.0, False
    if files.ledger.exists():
        try:
            with closing(_open(files.ledger)) as db:
                used = has_requests(db)
                total = total_spent(db) if used else 0.0
        except sqlite3.Error as error:
            raise explain(error, files.ledger) from error
    return max(total, known_spending(files, ledger_used=used))


@dataclass(frozen=True, slots=True)
class MeasuredUsage:
    """Mean token counts of requests to one model."""

    rounds: int
    """Rounds that the requests were for."""
    prompt: float
    """Prompt tokens per request."""
    cached: float
    """The part of ``prompt`` that came from the service's cache."""
    completion: float
    """Tokens per completion, including hidden reasoning."""


def tokens_so_far(files: NodeFiles) -> tuple[int, int] | None:
    """Return the prompt and completion tokens of a node's settled requests; None if there are none. Changes nothing.

    Raises ``NodeError`` if the ledger is damaged.
    """
    if not files.ledger.exists():
        return None
    try:
        with closing(_open(files.ledger)) as db:
            query = "SELECT TOTAL(prompt_tokens), TOTAL(completion_tokens) FROM requests WHERE state='settled'"
            prompt, completion = db.execute(query).fetchone() if has_requests(db) else (0, 0)
    except sqlite3.Error as error:
        raise explain(error, files.ledger) from error
    return (int(prompt), int(completion)) if completion else None


def measured_usage(ledger: Path, endpoint: Endpoint, stages: Collection[str]) -> MeasuredUsage | None:
    """Return what a node's settled requests to an endpoint used; None if there are none. Changes nothing.

    Raises ``NodeError`` if the ledger is damaged.
    """
    if not ledger.exists():
        return None
    marks = ",".join("?" * len(stages))
    try:
        with closing(_open(ledger)) as db:
            if not has_requests(db):
                return None
            rounds, *means = db.execute(
                "SELECT COUNT(DISTINCT round), AVG(prompt_tokens), AVG(cached_tokens), "
                "TOTAL(completion_tokens) / TOTAL(asked) FROM requests WHERE state='settled' AND round>=0 "
                f"AND provider=? AND model=? AND stage IN ({marks})",
                (endpoint.name, endpoint.model, *stages),
            ).fetchone()
    except sqlite3.Error as error:
        raise explain(error, ledger) from error
    return MeasuredUsage(rounds, *means) if rounds else None


def known_spending(files: NodeFiles, *, ledger_used: bool) -> float:
    """Return what a node has spent according to its other records, in USD: the highest total in any of them.

    ``ledger_used``: whether the ledger has any request. If so, only ``spent.json`` is read.
    """
    others = () if ledger_used else (*_of_completions(files.journal), *_of_events(files.events))
    return max([read_total(files.spent), *others])


def read_total(path: Path) -> float:
    """Return the total in ``spent.json``; 0 if it is missing or damaged. Raises ``FileProblem`` for a newer format."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        stored = json.loads(path.read_bytes())
        check_number(path, stored.get("schema") if isinstance(stored, dict) else None)
        return _amount(stored["usd"])
    return 0.0


def write_total(path: Path, usd: float) -> None:
    """Write ``spent.json``. Raises ``OSError``."""
    atomic_write.write(path, json.dumps({"schema": 1, "usd": usd}) + "\n")


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _of_completions(journal: Path) -> Iterator[float]:
    if journal.exists():
        with suppress(sqlite3.Error), closing(_open(journal)) as db:
            yield total_cost(db)


def _of_events(events: Path) -> Iterator[float]:
    with suppress(OSError), events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - _TAIL_BYTES))
        for line in file:
            with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                event = json.loads(line)
                yield _amount(event["usd_total"]) + _amount(event.get("usd_reserved", 0.0))


def _amount(value: object) -> float:
    """Return an amount in USD. Raises ``ValueError`` for what is none, such as NaN, which JSON readers accept."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)
