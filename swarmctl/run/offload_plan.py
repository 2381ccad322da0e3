"""What a run reports before it offloads: what generates, what is learned, where prompts go, what it costs.

Nothing is spent without consent: either a cap is set explicitly, or the user is asked once per node and provider.
"""

import math
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.prices import BYTES_A_MESSAGE, Usage, bounded_price
from hivemind_exp.offload.settings import (
    Endpoint,
    chain,
    describe_loss,
    first_endpoint,
    reasons,
    resolved_kind,
    token_limit,
    training_terms,
)
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.sources.schedule import share_of
from hivemind_exp.tasks.mixture import Mixture
from swarmctl.settings.resolve import Resolved
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import duration, percent, several


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected requests, tokens, cost and time of one round."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    """The cost if every completion has the maximum length. The cap is enforced with it."""
    minutes: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be offloaded."""

    config: Config
    endpoint: Endpoint
    estimate: Estimate
    paid: tuple[Endpoint, ...]
    """The providers in the chain that cost money."""
    spent: float
    """USD that the node has spent so far."""
    retired: tuple[Endpoint, ...] = ()
    """Those whose model is retired, or will be soon."""

    def as_json(self) -> dict[str, Any]:
        """Return the plan for ``--dry-run --json``."""
        cap = self.config.offload.limits.usd
        return {
            "provider": self.endpoint.name,
            "model": self.endpoint.model,
            "host": self.endpoint.host,
            "kind": resolved_kind(self.config).value,
            "loss": describe_loss(self.config),
            "training": self.endpoint.chat.training,
            "round": {key: round(value, 6) for key, value in asdict(self.estimate).items()},
            "usd_spent": round(self.spent, 8),
            "usd_cap": None if cap == "unlimited" else cap,
        }


def plan(config: Config, files: NodeFiles) -> Plan:
    """Return the plan, after every check that is possible in advance. Raises ``NodeError``."""
    capped = config.offload.limits.capped
    endpoints = [endpoint for endpoint in chain(config) if endpoint is not None]
    prices = [
        bounded_price(endpoint, config.offload.prices, capped=capped, reasons=reasons(config, endpoint))
        for endpoint in endpoints
    ]
    paid = tuple(endpoint for endpoint, price in zip(endpoints, prices, strict=True) if not price.free)
    retired = tuple(endpoint for endpoint, price in zip(endpoints, prices, strict=True) if price.retired)
    return Plan(config, first_endpoint(config), estimate(config), paid, spent_so_far(files), retired)


def banner(plan: Plan) -> list[str]:
    """Return the plan in a few sentences."""
    config, endpoint, offload = plan.config, plan.endpoint, plan.config.offload
    part = f"it generates {percent(offload.share)} of each group"
    if offload.when == "failed":
        part = "it only generates groups in which none of this machine's completions is correct"
    rounds = "" if offload.rounds == "*" else f", in rounds {offload.rounds}"
    batch = ", through the Batch API" if offload.batch else ""
    names = ["this machine" if other is None else other.name for other in chain(config)[1:]]
    fallback = f"{', then '.join(names)} generate{'s' if len(names) == 1 else ''}" if names else "the node waits"
    cap = offload.limits.usd
    limit = "no cap" if cap == "unlimited" else f"cap: {cap:.2f} USD over all runs"
    spent = f"Spent so far: {plan.spent:.4f} USD; {limit}." if plan.paid or plan.spent else ""
    return [
        f"Offloading to {endpoint.label}: {part}{rounds}{batch}. Used as {describe_loss(config)}.",
        f"Prompts go to {endpoint.host}; {training_terms(config, endpoint)}. While it is unavailable, {fallback}.",
        f"{cost(plan)} {spent}",
        *(f"{each.label} is retired or will be soon: see swarmctl models {each.name}." for each in plan.retired),
    ]


def cost(plan: Plan) -> str:
    """Return a sentence on the requests, tokens, cost and time of a round."""
    round_ = plan.estimate
    tokens = round_.prompt_tokens + round_.completion_tokens
    price = f"about {round_.usd:.4f} USD (at most {round_.usd_at_most:.4f})" if plan.paid else "free"
    time = duration(float(round(60 * round_.minutes))) if round_.minutes >= 1 / 6 else "a few seconds"
    if plan.config.offload.batch:
        time = "within 24 hours"
    least = "up to " if plan.config.offload.when == "failed" else ""
    return f"Per round: {least}{several(round_.requests, 'request')}, about {tokens:,} tokens, {price}, {time}."


_SAMPLE = 8
"""Questions created to measure the length of prompts."""
_BYTES_A_TOKEN = 4
"""For English text, with any large vocabulary."""
_FILL = 0.5
"""Share of the maximum length that completions are assumed to have."""
_TOKENS_A_SECOND = 50
"""Assumed speed of one request at a hosted service."""


def estimate(config: Config) -> Estimate:
    """Estimate from a few sample questions. Raises ``NodeError`` if that fails or a price is unknown."""
    endpoint, offload = first_endpoint(config), config.offload
    thinks = reasons(config, endpoint)
    price = bounded_price(endpoint, offload.prices, capped=offload.limits.capped, reasons=thinks)
    filled = share_of(offload, config.game.group_size)
    # Each stage of a round has its own prompt. What later stages quote is counted at its maximum length.
    stages = set(offload.stages)
    groups = config.game.groups * len(stages)
    quoted = sum(_bytes_quoted(config, stage) for stage in stages)
    bytes_a_prompt = _bytes_a_prompt(config) + quoted / len(stages)
    requests = groups * (1 if endpoint.chat.group == "n" else filled)
    prompt = requests * math.ceil(bytes_a_prompt / _BYTES_A_TOKEN)
    longest = token_limit(config) + (offload.reasoning_tokens if thinks else 0)
    completion = round(groups * filled * longest * _FILL)
    discount = price.share(offload)
    # Very long requests cost more per token: each request is priced at the rate for its size.
    usage = Usage(math.ceil(prompt / requests), math.ceil(completion / requests))
    return Estimate(
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=discount * price.cost(usage) * requests,
        usd_at_most=(discount if offload.batch else 1.0)
        * (requests * bytes_a_prompt * price.input + groups * filled * longest * price.output),
        minutes=_minutes(config, requests, prompt + completion, longest),
    )


def _bytes_quoted(config: Config, stage: str) -> int:
    """Return the most bytes that a stage quotes: none, answers, or answers and critiques."""
    from hivemind_exp.game.study_group.exhibits import SHOWN
    from hivemind_exp.game.study_group.prompts import LONGEST_QUOTATION

    most = min(LONGEST_QUOTATION, _BYTES_A_TOKEN * config.generation.max_completion_tokens)
    return {"critique": 1, "resolve": 2}.get(stage, 0) * SHOWN * most


def _minutes(config: Config, requests: int, tokens: int, longest: int) -> float:
    limits = config.offload.limits
    waves = math.ceil(requests / limits.concurrency)
    paces = ((requests, limits.requests_per_minute), (tokens, limits.tokens_per_minute))
    limited = [amount / pace for amount, pace in paces if pace]
    return max([waves * longest * _FILL / _TOKENS_A_SECOND / 60, *limited])


def _bytes_a_prompt(config: Config) -> float:
    from hivemind_exp.game.sampling.game import messages

    charter = charter_id(config).encode()
    with closing(Mixture(config.tasks, charter=charter, secret=b"", heldout=0, verifiers=1)) as tasks:
        prompts = [messages(question) for question in tasks.questions("train", 0, min(_SAMPLE, config.game.groups))]
    sizes = [sum(len(turn["content"].encode()) + BYTES_A_MESSAGE for turn in prompt) for prompt in prompts]
    return sum(sizes) / len(sizes)


def ask_consent(plan: Plan, resolved: Resolved, files: NodeFiles, prompter: Prompter) -> tuple[str, ...]:
    """Ask for consent to the cost; return the providers that the user agrees to, to be recorded.

    Raises ``ConfigurationError`` if the answer is no, or if no one can be asked.
    """
    if "offload.limits.usd" in resolved.origins:
        return ()
    agreed = (read_json(files.consent) or {}).get("providers", {})
    asked = tuple(endpoint for endpoint in plan.paid if endpoint.name not in agreed)
    if not asked:
        return ()
    names = " and ".join(dict.fromkeys(endpoint.label for endpoint in asked))
    verb = "costs" if len({endpoint.label for endpoint in asked}) == 1 else "cost"
    hosts = ", ".join(dict.fromkeys(endpoint.host for endpoint in asked))
    cap = resolved.config.offload.limits.usd
    limit = cap if cap == "unlimited" else f"{cap:.2f}"
    prompter.confirm(
        f"{names} {verb} money, and prompts go to {hosts}. {cost(plan)} "
        f"This node will spend at most {limit} USD over all runs. Continue?",
        ConfigurationError(
            f"{names} {verb} money ({cost(plan)[:1].lower()}{cost(plan)[1:-1]}). Set a spending cap with --max-usd to "
            "confirm",
            next=f"swarmctl run --max-usd {limit}",
        ),
    )
    return tuple(endpoint.name for endpoint in asked)


def record_consent(files: NodeFiles, providers: tuple[str, ...]) -> None:
    """Record the providers that the user agreed to, so that the question is not asked again."""
    if providers:
        known = (read_json(files.consent) or {}).get("providers", {})
        write_json(files.consent, {"schema": 1, "providers": known | dict.fromkeys(providers, now())})
