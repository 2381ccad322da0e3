"""What a run tells of its offloading beforehand: who generates, what is learned, what goes where, what it costs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.offload.endpoints import TRAINING, Endpoint, chain, first_endpoint
from hivemind_exp.offload.ledger import read_totals
from hivemind_exp.offload.prices import bounded_price
from hivemind_exp.offload.settings import check_offload, describe_loss, resolved_kind
from swarmctl.run.estimate import Estimate, estimate
from swarmctl.terminal.sentences import duration, percent


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be offloaded."""

    config: Config
    endpoint: Endpoint
    estimate: Estimate
    paid: tuple[Endpoint, ...]
    """Providers of the chain that cost money."""
    spent: float
    """Dollars that the node has spent before."""


def plan(config: Config, ledger: Path) -> Plan:
    """Look at everything that can be found wrong beforehand. Raises ``NodeError``."""
    check_offload(config)
    capped = config.offload.limits.capped
    endpoints = [endpoint for endpoint in chain(config) if endpoint is not None]
    prices = {endpoint.label: bounded_price(endpoint, config.offload.prices, capped=capped) for endpoint in endpoints}
    paid = tuple(endpoint for endpoint in endpoints if not prices[endpoint.label].free)
    return Plan(config, first_endpoint(config), estimate(config), paid, spent_so_far(ledger))


def spent_so_far(ledger: Path) -> float:
    """Return what a node has spent, reserves of unknown outcome included."""
    if not ledger.exists():
        return 0.0
    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
            return sum(total.usd + total.usd_unsettled for total in read_totals(db))
    except sqlite3.Error:
        return 0.0


def banner(plan: Plan) -> list[str]:
    """Say it in a few sentences."""
    config, endpoint = plan.config, plan.endpoint
    return [
        f"Offloading to {endpoint.label}: {_part(config)}; {describe_loss(config)}.",
        f"Prompts go to {endpoint.host}; {TRAINING[endpoint.chat.training]}. {_fallback(config)}",
        f"{cost(plan)} {_spent(plan)}",
    ]


def _part(config: Config) -> str:
    offload = config.offload
    if offload.when == "failed":
        part = "it is asked only where none of this machine's samples is right"
    else:
        part = f"it fills {percent(offload.share)} of each group"
    rounds = "" if offload.rounds == "*" else f" in rounds {offload.rounds}"
    return f"{part}{rounds}{', through the Batch API' if offload.batch else ''}"


def _fallback(config: Config) -> str:
    names = ["this machine" if endpoint is None else endpoint.name for endpoint in chain(config)[1:]]
    if not names:
        return "While it cannot, the node waits."
    return f"While it cannot, {', then '.join(names)} generate{'s' if len(names) == 1 else ''}."


def cost(plan: Plan) -> str:
    """Say what a round takes."""
    round_ = plan.estimate
    tokens = round_.prompt_tokens + round_.completion_tokens
    price = f"about {round_.usd:.4f} USD (at most {round_.usd_at_most:.4f})" if plan.paid else "free of charge"
    time = duration(float(round(60 * round_.minutes))) if round_.minutes >= 1 / 6 else "seconds"
    least = "up to " if plan.config.offload.when == "failed" else ""
    return f"A round: {least}{round_.requests:,} requests, about {tokens:,} tokens, {price}, {time}."


def _spent(plan: Plan) -> str:
    cap = plan.config.offload.limits.usd
    if not plan.paid and not plan.spent:
        return ""
    limit = "no cap" if cap == "unlimited" else f"the cap is {cap:.2f} USD for the node's whole life"
    return f"Spent so far {plan.spent:.4f} USD; {limit}."


def as_json(plan: Plan) -> dict[str, Any]:
    """Return what ``--dry-run --json`` tells."""
    cap = plan.config.offload.limits.usd
    return {
        "provider": plan.endpoint.name,
        "model": plan.endpoint.model,
        "host": plan.endpoint.host,
        "kind": resolved_kind(plan.config).value,
        "loss": describe_loss(plan.config),
        "training": plan.endpoint.chat.training,
        "round": plan.estimate.as_json(),
        "usd_spent": round(plan.spent, 8),
        "usd_cap": None if cap == "unlimited" else cap,
    }
