"""What a run reports before it offloads: what generates, what is learned, where prompts go, what it costs.

Nothing is spent without consent: either a cap is set explicitly, or the user is asked once per node and provider.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from hivemind_exp.config import Config, LimitsConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.money import digits, dollars
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.judge import api_configs, grades_a_round, is_judged
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.prices import bounded_price
from hivemind_exp.offload.settings import (
    Endpoint,
    chain,
    first_endpoint,
    hosts_of,
    is_distilled,
    only_if_failed,
    reasons,
    replica_endpoints,
    teaches_hints,
    training_terms,
)
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.rollouts.types import MOST_ANSWERS
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.schedule import in_rounds
from swarmctl.nodes.history import rounds_at_rest
from swarmctl.run.estimate import Estimate, estimate
from swarmctl.settings.allowed import choice
from swarmctl.settings.resolve import Resolved
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import duration, percent, several


@dataclass(frozen=True, slots=True)
class UsePlan:
    """How an API will be used, to generate or to grade."""

    config: Config
    """Its settings, as if it were the node's only use of an API (``judge.api_configs``)."""
    endpoint: Endpoint
    """The provider that is asked first."""
    estimate: Estimate
    paid: tuple[Endpoint, ...]
    """The providers in the chain that cost money."""
    rounds: int = 0
    """Rounds left in which it is used; 0 if the node runs until you stop it."""
    retired: tuple[Endpoint, ...] = ()
    """Those whose model is retired, or will be soon."""

    @property
    def judges(self) -> bool:
        return is_judged(self.config)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that APIs will be used for, under one cap."""

    uses: tuple[UsePlan, ...]
    """Not empty."""
    spent: float
    """USD that the node has spent so far."""

    @property
    def limits(self) -> LimitsConfig:
        return self.uses[0].config.offload.limits

    @property
    def paid(self) -> tuple[Endpoint, ...]:
        """The providers that cost money."""
        return tuple(dict.fromkeys(endpoint for use in self.uses for endpoint in use.paid))

    @property
    def usd(self) -> float:
        """The expected cost of a round."""
        return sum(use.estimate.usd for use in self.uses if use.paid)

    @property
    def usd_at_most(self) -> float:
        """The most that a round can cost."""
        return sum(use.estimate.usd_at_most for use in self.uses if use.paid)

    def as_json(self, use: UsePlan) -> dict[str, Any]:
        """Return one of the uses for ``--dry-run --json``."""
        cap = self.limits.usd
        return {
            "provider": use.endpoint.name,
            "model": use.endpoint.model,
            "host": hosts_of(replica_endpoints(use.config)),
            "kind": use.config.offload.counts_as.value,
            "loss": describe_loss(use.config),
            "training": use.endpoint.chat.training,
            "round": {key: round(value, 6) for key, value in asdict(use.estimate).items()},
            "usd_spent": round(self.spent, 8),
            "usd_cap": None if cap == "unlimited" else cap,
        }


def plan(config: Config, files: NodeFiles) -> Plan | None:
    """Return the plan, after every check that is possible in advance; None for a node that asks no API.

    Raises ``NodeError``.
    """
    uses = api_configs(config)
    if not uses:
        return None
    rounds = range(rounds_at_rest(files) or 0, config.game.rounds)
    grades = grades_a_round(config)
    return Plan(tuple(_planned(use, files, rounds, grades) for use in uses), spent_so_far(files))


def _planned(config: Config, files: NodeFiles, rounds: range, grades: int) -> UsePlan:
    capped = config.offload.limits.capped
    endpoints = [endpoint for endpoint in chain(config) if endpoint is not None]
    prices = [
        bounded_price(endpoint, config.offload.prices, capped=capped, reasons=reasons(config, endpoint))
        for endpoint in endpoints
    ]
    paid = tuple(endpoint for endpoint, price in zip(endpoints, prices, strict=True) if not price.free)
    retired = tuple(endpoint for endpoint, price in zip(endpoints, prices, strict=True) if price.retired)
    left = sum(in_rounds(config.offload.rounds, round_) for round_ in rounds)
    return UsePlan(config, first_endpoint(config), estimate(config, files, grades), paid, left, retired)


def banner(plan: Plan) -> list[str]:
    """Return the plan in a few sentences."""
    return [text for _, text in labelled(plan)]


def labelled(plan: Plan) -> list[tuple[str, str]]:
    """Return the plan in a few sentences, each with a word on what it is about."""
    lines = []
    for use in plan.uses:
        what, terms = _judging(use) if use.judges else _offloading(use)
        lines += [("judge" if use.judges else "offload", what), ("prompts", terms)]
    cap = plan.limits.usd
    limit = "no cap" if cap == "unlimited" else f"cap: {dollars(cap)} over all runs"
    spent = f" Spent so far: {dollars(plan.spent)}; {limit}." if plan.paid or plan.spent else ""
    advice = [text for use in plan.uses for text in _more_questions(use.config)]
    advice += [
        f"{each.label} is retired or will be soon: see swarmctl models {each.name}."
        for each in dict.fromkeys(each for use in plan.uses for each in use.retired)
    ]
    money = f"{cost(plan)}{_total(plan)}{spent}{_shortfall(plan)}"
    return [*lines, ("cost", money), *(("advice", text) for text in advice)]


def _while_down(endpoint: Endpoint, what: str) -> str:
    return f"While {endpoint.name} is unavailable, {what}."


def _judging(use: UsePlan) -> tuple[str, str]:
    label, weight = use.endpoint.label, use.config.judge.weight
    return (
        f"{label} grades each of this node's completions, for a reward of up to {weight:g}.",
        f"Questions and completions go to {use.endpoint.host}. {_while_down(use.endpoint, 'the node waits')}",
    )


def _offloading(use: UsePlan) -> tuple[str, str]:
    config, endpoint, offload = use.config, use.endpoint, use.config.offload
    part = f"it generates {percent(offload.share)} of each group"
    if offload.when == "failed":
        part = "it only generates groups in which none of this machine's completions is correct"
    rounds = "" if offload.rounds == "*" else f", {_in_rounds(offload.rounds)}"
    batch = ", through the Batch API" if offload.batch else ""
    names = ["this machine" if other is None else other.name for other in chain(config)[1:]]
    fallback = f"{', then '.join(names)} generate{'s' if len(names) == 1 else ''}" if names else "the node waits"
    if is_distilled(config):
        without, terms = (
            "this machine learns without it" if names else "the node waits",
            training_terms(config, endpoint),
        )
        return (
            f"{endpoint.label} scores this machine's completions, token by token{rounds}. "
            f"Used as {describe_loss(config)}.",
            f"Prompts and completions go to {endpoint.host}; {terms}. {_while_down(endpoint, without)}",
        )
    if teaches_hints(config):
        return _hints(config, endpoint, rounds)
    return (
        f"Offloading to {endpoint.label}: {part}{rounds}{batch}. Used as {describe_loss(config)}.",
        f"{_prompts(config, endpoint)}; {training_terms(config, endpoint)}. {_while_down(endpoint, fallback)}",
    )


def _prompts(config: Config, endpoint: Endpoint) -> str:
    if config.offload.serving.command:
        return f"Prompts stay on this machine: the node starts {endpoint.name} itself"
    return f"Prompts go to {hosts_of(replica_endpoints(config))}"


def _hints(config: Config, endpoint: Endpoint, rounds: str) -> tuple[str, str]:
    others = [None if other is None else other.name for other in chain(config)[1:]]
    writers = [name for name in others if name is not None]
    fallback = f"{choice(writers, 'or')} writes them" if writers else "the node waits"
    if None in others:
        fallback = f"{fallback}, or this node trains without hints" if writers else "this node trains without hints"
    return (
        f"{endpoint.label} writes a hint for each question to which this machine's answers are all wrong{rounds}. This "
        "machine then answers again with the hint, and learns its correct answers without the hint.",
        f"Questions go to {endpoint.host}; {training_terms(config, endpoint)}. {_while_down(endpoint, fallback)}",
    )


def _more_questions(config: Config) -> list[str]:
    """Return advice for a teacher that fills whole groups, most of which are not learned from.

    In a swarm, the charter fixes the groups' size, and only whole groups are shared.
    """
    game, offload = config.game, config.offload
    whole = offload.share == 1 and not only_if_failed(offload) and config.offload.counts_as is Kind.TEACHER
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
    if len(plan.uses) == 1:
        return f"Per round: {_cost(plan.uses[0])}."
    parts = [f"{_cost(use)}, to {'grade' if use.judges else 'generate'}" for use in plan.uses]
    both = f" Together about {dollars(plan.usd)} (at most {dollars(plan.usd_at_most)})." if plan.paid else ""
    return f"Per round: {'; '.join(parts)}.{both}"


def _cost(use: UsePlan) -> str:
    round_ = use.estimate
    tokens = round_.prompt_tokens + round_.completion_tokens
    measured = f"measured over {several(round_.measured_rounds, 'round')}, " if round_.measured_rounds else ""
    price = f"about {dollars(round_.usd)} ({measured}at most {dollars(round_.usd_at_most)})" if use.paid else "free"
    time = duration(float(round(60 * round_.minutes))) if round_.minutes >= 1 / 6 else "a few seconds"
    if not use.paid:  # usually a server of the user's own, whose speed is unknown
        time = "as fast as the server is"
    if use.config.offload.batch:
        time = "within 24 hours"
    least = "up to " if only_if_failed(use.config.offload) else ""
    return f"{least}{several(round_.requests, 'request')}, about {tokens:,} tokens, {price}, {time}"


def _total(plan: Plan) -> str:
    """Return a sentence on the cost of the rounds that are left; empty if they are free, one or without end."""
    paid = [use for use in plan.uses if use.paid]
    rounds = max((use.rounds for use in paid), default=0)
    if rounds < 2:
        return ""
    usd, most = (sum(use.rounds * getattr(use.estimate, name) for use in paid) for name in ("usd", "usd_at_most"))
    return f" All {rounds:,} rounds left: about {dollars(usd)} (at most {dollars(most)})."


def _shortfall(plan: Plan) -> str:
    """Return a sentence if a cap may not cover a round, or will end the run before its last one."""
    limits = plan.limits
    if not plan.paid:
        return ""
    left = math.inf if limits.usd == "unlimited" else limits.usd - plan.spent
    if left < plan.usd_at_most:
        word = "does not" if left < plan.usd else "may not"
        return f" The cap {word} cover a round; {_rounded_up(plan.spent + plan.usd_at_most)} USD (--max-usd) would."
    if limits.usd_per_day is not None and limits.usd_per_day < plan.usd_at_most:
        word = "does not" if limits.usd_per_day < plan.usd else "may not"
        enough = _rounded_up(plan.usd_at_most)
        return f" The daily cap {word} cover a round; {enough} USD (offload.limits.usd_per_day) would."
    total = sum(use.rounds * use.estimate.usd for use in plan.uses if use.paid)
    if plan.usd and left < math.inf and not left >= total > 0:
        ends = any(use.config.offload.on_limit == "stop" for use in plan.uses if use.paid)
        what = "ends the run" if ends else "stops paid requests"
        cover = f"; {_rounded_up(plan.spent + total)} USD (--max-usd) would cover all of them" if total else ""
        return f" The cap {what} after about {several(int(left / plan.usd), 'round')}{cover}."
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
