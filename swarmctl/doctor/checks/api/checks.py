"""The API providers that generate completions for the node: a set of checks per provider in the profile's chain."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.known_key import without_known_key
from hivemind_exp.model_names import short_name
from hivemind_exp.money import dollars
from hivemind_exp.providers import PROVIDERS, Provider
from hivemind_exp.source_kinds import POLICY_SERVER
from swarmctl.doctor.check import LATER, Check, Context, Finding, failed, ok, skipped, unknown, warning
from swarmctl.doctor.checks import accelerator
from swarmctl.doctor.checks.api import service as api_service
from swarmctl.doctor.checks.api.service import ApiService, limits, services, when_reachable
from swarmctl.doctor.checks.installation import install
from swarmctl.keys.http_client import Unanswered, timed_out
from swarmctl.keys.probe import send
from swarmctl.rollouts.journal import reading

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.offload.api.chat import ChatAnswer
    from hivemind_exp.offload.api.dialect import RequestDialect
    from hivemind_exp.offload.prices import Price

_REQUEST_S = 30.0
_TRIES = 4
"""How many requests are sent. If a service rejects a parameter, it bills nothing, and the next leaves it out."""
_DAY = 86400
_YEAR = timedelta(days=365)
"""Models and prices change: a row of the provider table that is older is reported."""


def providers(_context: Context) -> Finding:
    """Report that no provider is configured. With offloading, the result of ``checks`` replaces this check."""
    return skipped("no provider in this profile")


def settings(context: Context) -> Finding:
    """Check that the settings are consistent, as a run would."""
    from hivemind_exp.offload.judge import api_configs, check_judge
    from hivemind_exp.offload.loss_descriptions import describe_loss
    from hivemind_exp.offload.rules import check_offload
    from hivemind_exp.offload.settings import chain, first_endpoint, training_terms

    check_offload(context.config)
    check_judge(context.config)
    found = []
    for use in api_configs(context.config):
        order = ", else ".join("this machine" if each is None else each.label for each in chain(use))
        first = first_endpoint(use)
        found.append(f"{order}; {describe_loss(use)}; {first.name}: {training_terms(use, first)}")
    if find_spec("openai") is None:
        return failed("offloading needs the openai package, which is not installed", install("openai[aiohttp]"))
    return ok(". ".join(found))


def price(service: ApiService, context: Context) -> Finding:
    """Check what a million tokens cost, and whether a cap can be enforced."""
    endpoint, cost = service.endpoint, _price(service)
    if cost is None:
        return warning(f"the price of {endpoint.label} is unknown, and offload.limits.usd is unlimited")
    if cost.free:
        return ok(f"{endpoint.label} is free")
    row = PROVIDERS.get(endpoint.name)
    checked = row.chat.checked if row is not None and row.chat is not None else None
    if cost.retired:
        text = f"{endpoint.label} is retired, or will be soon, according to genai-prices"
        return warning(text, context.models(endpoint.name))
    if checked is not None and date.today() - checked > _YEAR:
        text = f"what swarmctl knows about {endpoint.name} is from {checked}; update swarmctl, or check model and price"
        return warning(text, context.models(endpoint.name))
    said = (
        "set in the profile" if endpoint.name in context.config.offload.prices else "highest rate at any time and size"
    )
    millions = f"{cost.input * 1e6:g} USD per million input tokens, {cost.output * 1e6:g} USD per million output tokens"
    return ok(f"{endpoint.label}: {millions} ({said})")


def _price(service: ApiService) -> Price | None:
    """Return the price; None if it is unknown and no cap needs it. Raises ConfigurationError."""
    from hivemind_exp.offload.prices import bounded_price, price_of
    from hivemind_exp.offload.settings import reasons

    offload = service.config.offload
    thinks = reasons(service.config, service.endpoint)
    bounded_price(service.endpoint, offload.prices, capped=offload.limits.capped, reasons=thinks)
    return price_of(service.endpoint, offload.prices)


def key(service: ApiService, context: Context) -> Finding:
    """Look for the key where a run would. Another check tests whether the service accepts it."""
    found = service.key(context)
    return ok(found.reason if found else "no key found; requests are sent without one")


def is_asking(config: Config) -> bool:
    """Whether a node asks an API, to generate or to grade."""
    return {config.offload.provider, config.judge.provider} != {"off"}


def notice(context: Context) -> str | None:
    """Return a notice of the most that ``--deep`` will cost, before any request; None if it sends none."""
    if context.resolved is None or context.offline or not is_asking(context.config):
        return None
    try:
        most = [_most(each) for each in services(context.config)]
    except NodeError:
        return None  # the checks report it, and no request is sent
    asked = "the profile's provider" if len(most) == 1 else f"each of the profile's {len(most)} providers"
    known = sum(usd for usd in most if usd is not None)
    cost = "an unknown amount" if None in most else f"at most {dollars(known)}"
    price = "is free" if not known and None not in most else f"costs {cost}"
    return f"Sending a test question to {asked}. This {price}."


@when_reachable
def request(service: ApiService, context: Context) -> Finding:
    """Ask a question as a run would, and look at the answer's text. Costs money unless the provider is free."""
    try:
        most = _most(service)
        over = _over_cap(context, most or 0.0)
    except NodeError as error:
        return skipped(f"not sent: {error.message}")
    return over or _asked(service, context, most)


def _most(service: ApiService) -> float | None:
    """Return the most that the request costs, in dollars; None if unknown. Raises ConfigurationError.

    If the first answer shows that the model needs room to reason, there is a second one.
    """
    from hivemind_exp.offload.api.dialect import SamplingParams
    from hivemind_exp.offload.prices import PromptBound, worst_case
    from hivemind_exp.offload.unusable import TEST_MESSAGES

    price, sampling = _price(service), SamplingParams.of(service.config)
    if price is None:
        return None
    prompt = PromptBound.of([each["content"] for each in TEST_MESSAGES])
    return 2 * worst_case(price, prompt, 1, sampling.max_tokens + sampling.reasoning_tokens)


def _over_cap(context: Context, usd: float) -> Finding | None:
    """Return a finding if ``usd`` more would exceed one of the node's caps, else None. Raises NodeError."""
    caps = context.config.offload.limits
    if usd == 0 or not context.files.ledger.is_file():
        return None
    query = "SELECT TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests WHERE t >= ?"
    today = time.time() // _DAY * _DAY
    with reading(context.files.ledger) as ledger:
        for name, cap, since in (("usd", caps.usd, 0.0), ("usd_per_day", caps.usd_per_day, today)):
            used = float(ledger.execute(query, (since,)).fetchone()[0])
            if isinstance(cap, float) and used + usd > cap:
                return skipped(f"not sent: {dollars(used)} of the {dollars(cap)} cap (offload.limits.{name}) are used")
    return None


def _asked(service: ApiService, context: Context, most: float | None) -> Finding:
    from hivemind_exp.offload.api import chat, dialect, faults
    from hivemind_exp.offload.rejected import remedy
    from hivemind_exp.offload.settings import reasons
    from hivemind_exp.offload.unusable import TEST_MESSAGES

    endpoint, sampling = service.endpoint, dialect.SamplingParams.of(service.config)
    row = Provider(endpoint.name, endpoint.base_url)
    thinks = reasons(service.config, endpoint)
    style = dialect.RequestDialect(endpoint.chat.max_tokens, supports_n=False, reasons=thinks)
    bill = "an unknown amount" if most is None else f"up to {dollars(most)}"
    cost = "" if most == 0 else f"; this may have cost {bill}"
    again = context.again("api", "--deep")
    for _ in range(_TRIES):
        content = json.dumps(dialect.body(endpoint, style, TEST_MESSAGES, 1, sampling, 0)).encode()
        try:
            raw = send(row, f"{endpoint.base_url}/chat/completions", service.secret(context), _REQUEST_S, content)
            if raw.status == 200:
                answer = chat.read_answer(raw.body, raw.headers)
                if answer.reasoned and not style.reasons and not any(choice.usable for choice in answer.choices):
                    style.reasons = True
                    continue
                return _told(service, context, answer, raw.seconds, style)
            raise faults.refusal(raw.status, raw.body, raw.headers)
        except Unanswered as error:
            said = str(error)
            text = said if said.startswith("no response") else f"no response: {said}"
            text += cost if error.sent else ""
            return (unknown if timed_out(error) else service.trouble)(text, error.next)
        except faults.RequestFailed as fault:
            if fault.trouble is faults.FaultKind.BAD_REQUEST and style.adapt(fault.detail, first=True):
                continue
            verdict = warning if fault.trouble is faults.FaultKind.SLOW_DOWN else service.trouble
            text, following = fault.detail, again
            if fault.trouble is faults.FaultKind.BAD_REQUEST:
                helps = remedy(fault.detail, style, sampling, endpoint.name)
                text += f". {helps.advice}" if helps else ""
                # The same request would be rejected again, most often because the service has no such model.
                following = (helps and helps.command) or context.models(endpoint.name)
            elif fault.trouble is faults.FaultKind.REFUSED:
                following = endpoint.key_command
            elif raw.status == 200:  # the same would come again
                following = context.models(endpoint.name)
            text = _hidden(service, context, text) + (cost if fault.billed else "")
            return verdict(f"{text}. {LATER}" if following == again else text, following)
    return service.trouble(f"it rejected the request in {_TRIES} different forms", context.models(endpoint.name))


def _told(service: ApiService, context: Context, answer: ChatAnswer, seconds: float, style: RequestDialect) -> Finding:
    """Return what the answer costs, and what is wrong with its text."""
    from hivemind_exp.offload.api.dialect import SamplingParams
    from hivemind_exp.offload.unusable import TEST_QUESTION, text_shortcoming, unusable

    sampling, name, most = SamplingParams.of(service.config), service.endpoint.name, _most(service)
    usage, price = answer.usage, _price(service)
    by = foreign(short_name(answer.model or service.endpoint.model))
    if price is None:
        cost = "price unknown"
    elif usage is None:
        cost = f"it did not report its token usage: at most {dollars(most or 0.0)}, not counted toward the node's cap"
    else:
        cost = f"{usage.prompt} input and {usage.completion} output tokens: {dollars(price.cost(usage))}"
        cost += "" if price.free else ", not counted toward the node's cap"
    text = f"{by} responded in {seconds:.2f} s; {cost}; {limits(answer.headers)}"
    problem = unusable(answer, style, sampling, name)
    if problem is not None:
        text = f"{by} responded without a usable text: {problem}. {problem.advice}; {cost}"
        return service.trouble(_hidden(service, context, text), problem.command)
    problem = text_shortcoming(next(choice for choice in answer.choices if choice.usable), sampling, name)
    if problem is not None:
        text = f"{by} answered {TEST_QUESTION}, but {problem}. {problem.advice}; {cost}"
        return warning(_hidden(service, context, text), problem.command)
    return ok(_hidden(service, context, text))


def _hidden(service: ApiService, context: Context, text: str) -> str:
    """Return a service's text without the key, which the service may echo."""
    return without_known_key(text, service.secret(context), "…")


def adapters(context: Context) -> Finding:
    """Check that the servers of this node's weights take what it trains. Loads nothing, and costs nothing."""
    from hivemind_exp.offload.api.faults import RequestFailed
    from hivemind_exp.offload.policy_server_probe import shortcomings
    from hivemind_exp.offload.settings import replica_endpoints
    from hivemind_exp.sources.schedule import rounds_ahead
    from swarmctl.run.servers_down import servers_down
    from swarmctl.serving.by_hand import start_command

    if context.offline:
        return skipped("not checked (offline)")
    config, texts, serious = context.config, [], False
    servers, needed = replica_endpoints(config), rounds_ahead(config) + 2
    with TemporaryDirectory() as elsewhere:
        folder = context.files.served if context.files.root.is_dir() else Path(elsewhere)
        if config.offload.serving.folder:
            folder = Path(config.offload.serving.folder).expanduser().resolve()
        for server in servers:
            try:
                found = shortcomings(server, config, folder, needed)
            except RequestFailed as fault:
                if down := servers_down([server]):
                    start = start_command(config, server) or context.again("api")
                    return failed(
                        f"{server.base_url} accepts no connection ({down[0].reason}). Start the server", start
                    )
                return failed(f"{server.base_url}: {fault.detail}. {LATER}", context.again("api"))
            texts += [each.text if len(servers) == 1 else f"{server.base_url}: {each.text}" for each in found]
            serious = serious or any(each.serious for each in found)
    if texts:
        return (failed if serious else warning)(" ".join(texts))
    what = "the server takes" if len(servers) == 1 else f"all {len(servers)} servers take"
    trained = "adapters" if config.model.lora is not None else "whole weights"
    return ok(f"{what} this node's {trained}, with log-probabilities of the sampling temperature")


def own_server(context: Context) -> Finding:
    """Check that the server that the node starts is installed, and has a GPU of its own. Starts nothing."""
    from swarmctl.serving.gpus import place_server
    from swarmctl.serving.own_server import check_own_server, sharing
    from swarmctl.serving.registry import server_engine

    try:
        check_own_server(context.config)
    except NodeError as error:
        return failed(f"{error.message}.", error.next)
    program = server_engine(context.config).program(context.config)[0]
    place = place_server(context.config, os.environ, len(accelerator.gpus(context)))
    text = f"the node starts {program}" + ("" if place.gpu is None else f" on GPU {place.gpu}")
    if place.shared:
        return warning(f"{text}. {sharing(place)}. A GPU of its own is faster (offload.serving.gpu).")
    return ok(text)


_LOOKS: tuple[tuple[str, Callable[[ApiService, Context], Finding], float], ...] = (
    ("host", api_service.host, 6.0),
    ("price", price, 5.0),
    ("key", key, 6.0),
    ("service", api_service.answer, 12.0),
    ("model", api_service.model, 16.0),
    ("request", request, 60.0),
)
"""(name, check, seconds). A check waits for the earlier ones that it depends on, so its limit includes theirs."""


def checks(context: Context) -> list[Check]:
    """Return the checks for the profile's providers; none without any."""
    if context.resolved is None or not is_asking(context.config):
        return []
    found = [Check("api", "settings", settings, limit=5.0)]
    try:
        chain = services(context.config)
    except NodeError:
        return found  # ``settings`` reports the error
    if context.config.offload.serving.command:
        return [*found, Check("api", "server", own_server, limit=5.0)]
    if context.config.offload.kind == POLICY_SERVER:
        found.append(Check("api", "adapters", adapters, limit=60.0))
    return found + [
        Check("api", f"{each.label}.{name}", partial(look, each), limit, deep=look is request)
        for each in chain
        for name, look, limit in _LOOKS
    ]
