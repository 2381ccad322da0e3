"""Where the money went: a node's requests in its ledger, by provider, and its spending by day."""

from typing import Any

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from swarmctl.rollouts.journal import reading

_DAY_S = 86_400
_BY_DAY = (
    f"SELECT CAST(t / {_DAY_S} AS INTEGER), provider, TOTAL(usd) FROM requests WHERE usd IS NOT NULL "
    "GROUP BY 1, 2 ORDER BY 1, 2"
)
_MOST_DAYS = 400
_OF_ROUNDS = (
    "SELECT TOTAL(usd) + TOTAL(CASE WHEN state IN ('kept', 'open', 'batched') THEN reserved ELSE 0 END) FROM requests "
    "WHERE round < ?"
)


def money(files: NodeFiles, cap: float | str | None) -> dict[str, Any] | None:
    """Return a node's spending in USD; None if it never used a paid API. Raises ``NodeError``.

    ``cap``: the most that it may spend; None or "unlimited" without a cap.
    """
    if not files.ledger.is_file():
        return None
    with reading(files.ledger) as ledger:
        days = [
            {"day": day * _DAY_S, "provider": provider, "usd": usd}
            for day, provider, usd in ledger.execute(_BY_DAY).fetchall()[-_MOST_DAYS:]
        ]
    return {"usd": spent_so_far(files), "usd_cap": cap if isinstance(cap, int | float) else None, "by_day": days}


def spent_on(files: NodeFiles, rounds: int) -> float | None:
    """Return what a node's first ``rounds`` rounds cost in USD, with reserves of requests whose cost is unknown.

    None if it never used a paid API. Raises ``NodeError``.
    """
    if not files.ledger.is_file():
        return None
    with reading(files.ledger) as ledger:
        return float(ledger.execute(_OF_ROUNDS, (rounds,)).fetchone()[0])
