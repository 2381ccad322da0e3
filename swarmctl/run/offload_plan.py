"""What a run tells of its offloading beforehand: who generates, what is learned, what goes where, what it costs."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config, charter_id
from hivemind_exp.offload.ledger import BATCH_SHARE, BYTES_A_MESSAGE, Price, Usage, bounded_price, total_spent
from hivemind_exp.offload.settings import (
    TRAINING,
    Endpoint,
    chain,
    check_offload,
    describe_loss,
    first_endpoint,
    resolved_kind,
)
from hivemind_exp.sources.schedule import share_of
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
            return total_spent(db)
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


_SAMPLE = 8
"""Questions that are made to see how long prompts are."""


_BYTES_A_TOKEN = 4
"""Of English text, with any large vocabulary."""


_FILL = 0.5
"""How much of its allowed length a completion has, for want of better knowledge."""


_TOKENS_A_SECOND = 50
"""Of one request at a hosted service, likewise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One round."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    """With every completion as long as it may be; what the cap is kept with."""
    minutes: float

    def as_json(self) -> dict[str, Any]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def estimate(config: Config) -> Estimate:
    """Make a few questions and count. Raises ``NodeError`` where that fails or a price is not known."""
    endpoint, offload = first_endpoint(config), config.offload
    price = bounded_price(endpoint, offload.prices, capped=offload.limits.capped)
    groups, size = config.game.groups, config.game.group_size
    filled = share_of(offload, size)
    bytes_a_prompt = _bytes_a_prompt(config)
    several = endpoint.chat.group == "n"
    # Of a round with several stages, each is a prompt of its own; what later ones quote is counted at its longest.
    stages = len(set(offload.stages))
    groups *= stages
    bytes_a_prompt += sum(_bytes_quoted(config, stage) for stage in set(offload.stages)) / stages
    requests = groups * (1 if several else filled)
    prompt = requests * math.ceil(bytes_a_prompt / _BYTES_A_TOKEN)
    longest = config.generation.max_completion_tokens + (offload.reasoning_tokens if endpoint.reasons else 0)
    completion = round(groups * filled * longest * _FILL)
    discount = BATCH_SHARE if offload.batch else 1.0
    return Estimate(
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=discount * _cost(price, prompt / requests, completion / requests) * requests,
        usd_at_most=discount * (requests * bytes_a_prompt * price.input + groups * filled * longest * price.output),
        minutes=_minutes(config, requests, prompt + completion, longest),
    )


def _bytes_quoted(config: Config, stage: str) -> int:
    """Return what a stage quotes at most: nothing, answers, or answers and critiques."""
    from hivemind_exp.game.study_group.merging import SHOWN
    from hivemind_exp.game.study_group.quoting import LONGEST_QUOTATION

    most = min(LONGEST_QUOTATION, _BYTES_A_TOKEN * config.generation.max_completion_tokens)
    return {"critique": 1, "resolve": 2}.get(stage, 0) * SHOWN * most


def _cost(price: Price, prompt: float, completion: float) -> float:
    """Return dollars of one request, at the rate of its size: very long ones are dearer."""
    return price.cost(Usage(math.ceil(prompt), math.ceil(completion)))


def _minutes(config: Config, requests: int, tokens: int, longest: int) -> float:
    limits = config.offload.limits
    waves = math.ceil(requests / limits.concurrency)
    minutes = waves * longest * _FILL / _TOKENS_A_SECOND / 60
    if limits.requests_per_minute:
        minutes = max(minutes, requests / limits.requests_per_minute)
    if limits.tokens_per_minute:
        minutes = max(minutes, tokens / limits.tokens_per_minute)
    return minutes


def _bytes_a_prompt(config: Config) -> float:
    from hivemind_exp.game.sampling.prompts import messages
    from hivemind_exp.tasks.mixture import Mixture

    charter = charter_id(config).encode()
    with closing(Mixture(config.tasks, charter=charter, secret=b"", heldout=0, verifiers=1)) as tasks:
        prompts = [messages(question) for question in tasks.questions("train", 0, min(_SAMPLE, config.game.groups))]
    sizes = [sum(len(turn["content"].encode()) + BYTES_A_MESSAGE for turn in prompt) for prompt in prompts]
    return sum(sizes) / len(sizes)
