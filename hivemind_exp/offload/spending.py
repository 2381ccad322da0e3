"""What a node has spent in its whole life: from its ledger, or from other records if the ledger has lost data.

A cap covers the node's whole life, so it must hold even if ``ledger.sqlite`` or its ``-wal`` file is deleted, emptied
or cut. The total is therefore also kept in ``spent.json``. If the ledger lacks requests that this file knows of, the
file's reserves, the journal, the newest events and the checkpoints count, too. (The reserves are of requests that were
in flight, so this may be too high.)
"""

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write, event_files
from hivemind_exp.finite_numbers import is_finite
from hivemind_exp.formats import check_number
from hivemind_exp.journal.pruning import total_cost
from hivemind_exp.node_files import SEAL, NodeFiles
from hivemind_exp.node_id import node_id, read_id
from hivemind_exp.offload.ledger import ROUNDING, Total, explain, has_requests, latest_request, total_spent
from hivemind_exp.offload.settings import Endpoint

_LINE_BYTES = 120
"""Bytes of the line in ``spent.json``, without its end."""
_TAIL_BYTES = 4 << 20
"""How much of the log is searched for the newest total, from its end."""


def spent_so_far(files: NodeFiles) -> float:
    """Return what a node has spent in USD, including reserves of requests whose cost is unknown. Changes nothing.

    Raises ``NodeError`` if the ledger is damaged.
    """
    saved, total, requests = read_total(files.spent), 0.0, 0  # in this order: a running node writes the ledger first
    if files.ledger.exists():
        try:
            with closing(_open(files.ledger)) as db:
                if has_requests(db):
                    total, requests = total_spent(db), latest_request(db)
        except sqlite3.Error as error:
            raise explain(error, files.ledger) from error
    return max(total, known_spending(files, saved, total, requests))


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


def known_spending(files: NodeFiles, saved: Total | None, total: float, requests: int) -> float:
    """Return what a node has spent according to its other records, in USD: the highest total in any of them.

    ``saved``: what ``spent.json`` says. ``total`` and ``requests``: what the ledger says, both 0 if it is lost. If the
    ledger lacks nothing that ``spent.json`` knows of, reserves don't count, and nothing else is read.
    """
    lost = not requests or (saved is not None and (requests < saved.requests or total < saved.usd - ROUNDING))
    if saved is not None and not lost:
        return saved.usd
    others = (*_of_completions(files.journal), *_of_events(files.events, reserves=lost), *_of_checkpoints(files))
    return max([0.0 if saved is None else saved.most(), *others])


def saved_total(files: NodeFiles) -> float:
    """Return the most that a running node has spent, in USD, from ``spent.json``; 0 if it is missing or damaged."""
    saved = read_total(files.spent)
    return 0.0 if saved is None else saved.most()


def read_total(path: Path) -> Total | None:
    """Return what ``spent.json`` says; None if it is missing or damaged. Raises ``FileProblem`` for a newer format."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        stored = json.loads(path.read_bytes())
        check_number(path, stored.get("schema") if isinstance(stored, dict) else None)
        # Files of older versions have only the first.
        requests = int(_amount(stored.get("requests", 0)))
        return Total(_amount(stored["usd"]), _amount(stored.get("usd_reserved", 0.0)), requests)
    return None


def write_total(path: Path, total: Total, *, durable: bool) -> None:
    """Write ``spent.json``. Raises ``OSError``.

    With ``durable``, a power cut cannot undo it. Without, it takes microseconds, and the file must exist.
    """
    stored = {"schema": 1, "usd": total.usd, "usd_reserved": total.reserved, "requests": total.requests}
    content = json.dumps(stored).ljust(_LINE_BYTES) + "\n"  # of one length, so that it can be overwritten
    if durable:
        atomic_write.write(path, content)
    else:
        with path.open("r+b", buffering=0) as file:
            file.write(content.encode())


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _of_completions(journal: Path) -> Iterator[float]:
    if journal.exists():
        with suppress(sqlite3.Error), closing(_open(journal)) as db:
            yield total_cost(db)


def _of_events(events: Path, *, reserves: bool) -> Iterator[float]:
    with suppress(OSError):
        for line in event_files.tail(events, _TAIL_BYTES):
            with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                event = json.loads(line)
                yield _amount(event["usd_total"]) + _amount(event.get("usd_reserved", 0.0) if reserves else 0.0)


def _of_checkpoints(files: NodeFiles) -> Iterator[float]:
    """Yield what the node had spent when it wrote its checkpoints. A fork has not paid for those it began with."""
    own = node_id(files)
    for path in files.checkpoints.glob(f"[0-9]*/{SEAL}"):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            seal = json.loads(path.read_bytes())
            its = read_id(seal.get("node"))
            if (own and own.id) == (its and its.id):
                yield _amount(seal["usd"])


def _amount(value: Any) -> float:
    """Return an amount in USD. Raises ``ValueError`` for what is none, such as NaN."""
    if not is_finite(value):
        raise ValueError
    return float(value)
