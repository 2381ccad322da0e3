"""What a run reports before it offloads: what generates, what is learned, where prompts go, what it costs.

Nothing is spent without consent: either a cap is set explicitly, or the user is asked once per node and provider.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.money import digits, dollars
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.judge import is_judged
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.prices import bounded_price
from hivemind_exp.offload.settings import (
    Endpoint,
    chain,
    first_endpoint,
    is_distilled,
    only_if_failed,
    reasons,
    resolved_kind,
    teaches_hints,
    training_terms,
)
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.rollouts.types import MOST_ANSWERS, Kind
from hivemind_exp.run_record import RunRecord, read_record
from hivemind_exp.sources.schedule import in_rounds
from swarmctl.nodes.history import rounds_finished
from swarmctl.run.estimate import Estimate, estimate
from swarmctl.settings.allowed import choice
from swarmctl.settings.resolve import Resolved
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import duration, percent, several


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
    rounds: int = 0
    """Rounds left in which the API generates; 0 if the node runs until you stop it."""
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
    stop = (read_record(files.run) or RunRecord()).stop or {}
    spent, rounds = spent_so_far(files), range(stop.get("round") or rounds_finished(files) or 0, config.game.rounds)
    left = sum(in_rounds(config.offload.rounds, round_) for round_ in rounds)
    return Plan(config, first_endpoint(config), estimate(config, files), paid, spent, left, retired)


def banner(plan: Plan) -> list[str]:
    """Return the plan in a few sentences."""
    config, endpoint, offload = plan.config, plan.endpoint, plan.config.offload
    part = f"it generates {percent(offload.share)} of each group"
    if offload.when == "failed":
        part = "it only generates groups in which none of this machine's completions is correct"
    rounds = "" if offload.rounds == "*" else f", {_in_rounds(offload.rounds)}"
    batch = ", through the Batch API" if offload.batch else ""
    names = ["this machine" if other is None else other.name for other in chain(config)[1:]]
    fallback = f"{', then '.join(names)} generate{'s' if len(names) == 1 else ''}" if names else "the node waits"
    cap = offload.limits.usd
    limit = "no cap" if cap == "unlimited" else f"cap: {dollars(cap)} over all runs"
    spent = f" Spent so far: {dollars(plan.spent)}; {limit}." if plan.paid or plan.spent else ""
    use = [
        f"Offloading to {endpoint.label}: {part}{rounds}{batch}. Used as {describe_loss(config)}.",
        f"Prompts go to {endpoint.host}; {training_terms(config, endpoint)}. While it is unavailable, {fallback}.",
    ]
    if is_distilled(config):
        without, terms = (
            "this machine learns without it" if names else "the node waits",
            training_terms(config, endpoint),
        )
        use = [
            f"{endpoint.label} scores this machine's completions, token by token{rounds}. "
            f"Used as {describe_loss(config)}.",
            f"Prompts and completions go to {endpoint.host}; {terms}. While it is unavailable, {without}.",
        ]
    if is_judged(config):
        use = [
            f"{endpoint.label} grades each of this node's completions, for a reward of up to {config.judge.weight:g}.",
            f"Questions and completions go to {endpoint.host}. While it is unavailable, {fallback}.",
        ]
    if teaches_hints(config):
        use = _hints(config, endpoint, rounds)
    return [
        *use,
        f"{cost(plan)}{_total(plan)}{spent}{_shortfall(plan)}",
        *_more_questions(config),
        *(f"{each.label} is retired or will be soon: see swarmctl models {each.name}." for each in plan.retired),
    ]


def _hints(config: Config, endpoint: Endpoint, rounds: str) -> list[str]:
    others = [None if other is None else other.name for other in chain(config)[1:]]
    writers = [name for name in others if name is not None]
    fallback = f"{choice(writers, 'or')} writes them" if writers else "the node waits"
    if None in others:
        fallback = f"{fallback}, or this node trains without hints" if writers else "this node trains without hints"
    return [
        f"{endpoint.label} writes a hint for each question to which this machine's answers are all wrong{rounds}. This "
        "machine then answers again with the hint, and learns its correct answers without the hint.",
        f"Questions go to {endpoint.host}; {training_terms(config, endpoint)}. While it is unavailable, {fallback}.",
    ]


def _more_questions(config: Config) -> list[str]:
    """Return advice for a teacher that fills whole groups, most of which are not learned from.

    In a swarm, the charter fixes the groups' size, and only whole groups are shared.
    """
    game, offload = config.game, config.offload
    whole = offload.share == 1 and not only_if_failed(offload) and resolved_kind(config) is Kind.TEACHER
    if (
        is_judged(config)
        or is_distilled(config)
        or not whole
        or game.kind != "sampling"
        or game.group_size <= MOST_ANSWERS
        or config.swarm.charter is not None
    ):
        return []
    groups = game.groups * game.group_size // MOST_ANSWERS
    return [
        f"Of each question's {game.group_size} completions, at most {MOST_ANSWERS} are learned from. To "
        "cover more questions with the same number of completions: "
        f"--set game.group_size={MOST_ANSWERS} --set game.groups={groups}."
    ]


def _in_rounds(expression: str) -> str:
    """Return ``offload.rounds``, which counts from 0, in words with rounds that count from 1."""
    if expression.startswith("every "):
        return f"in round 1 and every {expression.removeprefix('every ')} rounds after it"
    parts = [part.partition("-") for part in expression.split(",")]
    shown = [
        f"{int(first) + 1}{'–' if last else ''}{int(last) + 1 if last else ' and later' if dash else ''}"
        for first, dash, last in parts
    ]
    return f"in rounds {choice(shown, 'and')}"


def cost(plan: Plan) -> str:
    """Return a sentence on the requests, tokens, cost and time of a round."""
    round_ = plan.estimate
    tokens = round_.prompt_tokens + round_.completion_tokens
    measured = f"measured over {several(round_.measured_rounds, 'round')}, " if round_.measured_rounds else ""
    price = f"about {dollars(round_.usd)} ({measured}at most {dollars(round_.usd_at_most)})" if plan.paid else "free"
    time = duration(float(round(60 * round_.minutes))) if round_.minutes >= 1 / 6 else "a few seconds"
    if not plan.paid:  # usually a server of the user's own, whose speed is unknown
        time = "as fast as the server is"
    if plan.config.offload.batch:
        time = "within 24 hours"
    least = "up to " if only_if_failed(plan.config.offload) else ""
    return f"Per round: {least}{several(round_.requests, 'request')}, about {tokens:,} tokens, {price}, {time}."


def _total(plan: Plan) -> str:
    """Return a sentence on the cost of the rounds that are left; empty if they are free, one or without end."""
    if not plan.paid or plan.rounds < 2:
        return ""
    usd, most = plan.rounds * plan.estimate.usd, plan.rounds * plan.estimate.usd_at_most
    return f" All {plan.rounds:,} rounds left: about {dollars(usd)} (at most {dollars(most)})."


def _shortfall(plan: Plan) -> str:
    """Return a sentence if a cap may not cover a round, or will end the run before its last one."""
    round_, limits = plan.estimate, plan.config.offload.limits
    if not plan.paid:
        return ""
    left = math.inf if limits.usd == "unlimited" else limits.usd - plan.spent
    if left < round_.usd_at_most:
        word = "does not" if left < round_.usd else "may not"
        return f" The cap {word} cover a round; {_rounded_up(plan.spent + round_.usd_at_most)} USD (--max-usd) would."
    if limits.usd_per_day is not None and limits.usd_per_day < round_.usd_at_most:
        word = "does not" if limits.usd_per_day < round_.usd else "may not"
        enough = _rounded_up(round_.usd_at_most)
        return f" The daily cap {word} cover a round; {enough} USD (offload.limits.usd_per_day) would."
    if round_.usd and left < math.inf and not left >= plan.rounds * round_.usd > 0:
        what = "ends the run" if plan.config.offload.on_limit == "stop" else "stops paid requests"
        enough = _rounded_up(plan.spent + plan.rounds * round_.usd) if plan.rounds else ""
        cover = f"; {enough} USD (--max-usd) would cover all of them" if enough else ""
        return f" The cap {what} after about {several(int(left / round_.usd), 'round')}{cover}."
    return ""


def _rounded_up(usd: float) -> str:
    """Return an amount to set as a cap: rounded up to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(usd)) - 1)
    return f"{math.ceil(round(usd / unit, 6)) * unit:.6g}"


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
    limit = cap if cap == "unlimited" else digits(cap).replace(",", "")
    prompter.confirm(
        f"{names} {verb} money, and prompts go to {hosts}. {cost(plan)} "
        f"This node will spend at most {limit} USD over all runs. Continue?",
        ConfigurationError(
            f"{names} {verb} money ({cost(plan)[:1].lower()}{cost(plan)[1:-1]}). Set a spending cap with --max-usd to "
            "confirm",
            next=f"swarmctl run --max-usd {limit}",
        ),
        "Nothing was sent.",
    )
    return tuple(endpoint.name for endpoint in asked)


def record_consent(files: NodeFiles, providers: tuple[str, ...]) -> None:
    """Record the providers that the user agreed to, so that the question is not asked again."""
    if providers:
        known = (read_json(files.consent) or {}).get("providers", {})
        write_json(files.consent, {"schema": 1, "providers": known | dict.fromkeys(providers, now())})
