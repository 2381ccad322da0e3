"""The services that generate rollouts for the node: one set of checks for each provider of the profile's chain."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hivemind_exp.errors import NodeError
from hivemind_exp.providers import Provider
from swarmctl.doctor.check import Check, Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.api import service as api_service
from swarmctl.doctor.checks.api.service import ApiService, limits, services, when_reachable
from swarmctl.doctor.checks.installation import install
from swarmctl.keys.http_client import Unanswered
from swarmctl.keys.probe import send
from swarmctl.rollouts.journal import reading
from swarmctl.terminal.sentences import dollars

if TYPE_CHECKING:
    from hivemind_exp.offload.api.chat import ChatAnswer
    from hivemind_exp.offload.ledger import Price

_TOKENS = 16
"""Of the answer, at most."""
_REQUEST_S = 30.0
_TRIES = 4
"""Requests at most: a service that refuses a parameter is asked again without it, and has billed nothing."""
_DAY = 86400
_MESSAGES = ({"role": "user", "content": "Say OK."},)


def providers(_context: Context) -> Finding:
    """Say that there is nothing to look at; with offloading, the checks of ``checks`` stand in this one's place."""
    return skipped("no provider in this profile")


def settings(context: Context) -> Finding:
    """Look whether the settings make sense together, as a run would."""
    from hivemind_exp.offload.settings import TRAINING, chain, check_offload, describe_loss, first_endpoint

    config = context.config
    check_offload(config)
    order = ", else ".join("this machine" if each is None else each.label for each in chain(config))
    if find_spec("openai") is None:
        return failed("offloading needs the package openai, which is not installed", install("openai[aiohttp]"))
    first = first_endpoint(config)
    return ok(f"{order}; {describe_loss(config)}; of {first.name}, {TRAINING[first.chat.training]}")


def price(service: ApiService, context: Context) -> Finding:
    """Look what a million tokens cost, and whether a cap can be kept."""
    endpoint, cost = service.endpoint, _price(service, context)
    if cost is None:
        return warning(f"the price of {endpoint.label} is not known, and offload.limits.usd is unlimited")
    if cost.free:
        return ok(f"{endpoint.label} costs nothing")
    said = "as the profile says" if endpoint.name in context.config.offload.prices else "at most, at any hour and size"
    millions = f"{cost.input * 1e6:g} USD a million tokens in, {cost.output * 1e6:g} USD out"
    return ok(f"{endpoint.label}: {millions}, {said}")


def _price(service: ApiService, context: Context) -> Price | None:
    """Return the price, None where it is not known and need not be. Raises ConfigurationError."""
    from hivemind_exp.offload.ledger import bounded_price, price_of

    offload = context.config.offload
    bounded_price(service.endpoint, offload.prices, capped=offload.limits.capped)
    return price_of(service.endpoint, offload.prices)


def key(service: ApiService, context: Context) -> Finding:
    """Look for the key where a run would. Whether the service accepts it is another check."""
    found = service.key(context)
    return ok(found.reason if found else "no key here, and none is needed")


def notice(context: Context) -> str | None:
    """Say what ``--deep`` will cost at most, before anything is asked; None where nothing is."""
    from hivemind_exp.offload.settings import is_offloaded

    if context.resolved is None or context.offline or not is_offloaded(context.config):
        return None
    try:
        most = [_most(each, context) for each in services(context.config)]
    except NodeError:
        return None  # the checks tell, and nothing is asked
    asked = "provider is asked for one word" if len(most) == 1 else "providers are asked for one word each"
    known = sum(usd for usd in most if usd is not None)
    cost = "an amount that is not known" if None in most else f"at most {dollars(known)}"
    return f"The profile's {asked}, which costs {cost}."


@when_reachable
def request(service: ApiService, context: Context) -> Finding:
    """Ask for one word with the parameters that a run would send, which costs money where the provider does."""
    try:
        most = _most(service, context)
        over = _over_cap(context, most or 0.0)
    except NodeError as error:
        return skipped(f"not asked, {error.message}")
    return over or _asked(service, context, most)


def _most(service: ApiService, context: Context) -> float | None:
    """Return dollars that the word costs at most; None where nobody knows. Raises ConfigurationError."""
    from hivemind_exp.offload.ledger import worst_case

    price = _price(service, context)
    return None if price is None else worst_case(price, [each["content"] for each in _MESSAGES], 1, _TOKENS)


def _over_cap(context: Context, usd: float) -> Finding | None:
    """Return that a cap of the node leaves no room for ``usd`` more. Raises NodeError."""
    caps = context.config.offload.limits
    if usd == 0 or not context.files.ledger.is_file():
        return None
    query = "SELECT TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests WHERE t >= ?"
    today = time.time() // _DAY * _DAY
    with reading(context.files.ledger) as ledger:
        for name, cap, since in (("usd", caps.usd, 0.0), ("usd_per_day", caps.usd_per_day, today)):
            used = float(ledger.execute(query, (since,)).fetchone()[0])
            if isinstance(cap, float) and used + usd > cap:
                return skipped(f"not asked: of offload.limits.{name} = {cap:.2f} USD, {dollars(used)} are spent")
    return None


def _asked(service: ApiService, context: Context, most: float | None) -> Finding:
    from hivemind_exp.offload.api import chat

    endpoint, offload = service.endpoint, context.config.offload
    row = Provider(endpoint.name, endpoint.base_url)
    style = chat.RequestDialect(endpoint.chat.max_tokens, supports_n=False)
    sampling = chat.SamplingParams(context.config.generation.temperature, _TOKENS, 0, offload.reasoning_effort)
    cost = f"that may have cost {'an unknown amount' if most is None else f'up to {dollars(most)}'}"
    again = context.again("api", "--deep")
    for _ in range(_TRIES):
        content = json.dumps(chat.body(endpoint, style, _MESSAGES, 1, sampling, 0)).encode()
        try:
            raw = send(row, f"{endpoint.base_url}/chat/completions", service.secret(context), _REQUEST_S, content)
            if raw.status == 200:
                return _told(service, context, chat.read_answer(raw.body, raw.headers), raw.seconds, most)
            raise chat.refusal(raw.status, raw.body, raw.headers)
        except Unanswered as error:
            return service.trouble(f"no answer: {error}; {cost}")
        except chat.RequestFailed as fault:
            if fault.trouble is chat.FaultKind.BAD_REQUEST and style.adapt(fault.detail):
                continue
            verdict = warning if fault.trouble is chat.FaultKind.SLOW_DOWN else service.trouble
            return verdict(_hidden(service, context, fault.detail) + (f"; {cost}" if fault.billed else ""), again)
    return service.trouble(f"it accepts none of {_TRIES} ways to ask", again)


def _told(service: ApiService, context: Context, answer: ChatAnswer, seconds: float, most: float | None) -> Finding:
    usage, price = answer.usage, _price(service, context)
    by = " ".join((answer.model or service.endpoint.model).split())
    if price is None:
        cost = "at a price that is not known"
    elif usage is None:
        cost = f"it does not say what it used: at most {dollars(most or 0.0)}, not counted under the node's cap"
    else:
        cost = f"{usage.prompt} tokens in, {usage.completion} out: {dollars(price.cost(usage))}"
        cost += "" if price.free else ", not counted under the node's cap"
    text = f"{by} answers in {seconds:.2f} s; {cost}; {limits(answer.headers)}"
    return ok(_hidden(service, context, text)) if answer.choices else warning(f"{text}; its answer has no choices")


def _hidden(service: ApiService, context: Context, text: str) -> str:
    """Return what a service says without the key, should it echo it."""
    value = service.secret(context)
    return text.replace(value, "…") if value else text


_LOOKS: tuple[tuple[str, Callable[[ApiService, Context], Finding], float], ...] = (
    ("price", price, 5.0),
    ("key", key, 6.0),
    ("host", api_service.host, 6.0),
    ("service", api_service.answer, 12.0),
    ("model", api_service.model, 16.0),
    ("request", request, 60.0),
)
"""(name, check, seconds). Each waits for those before it that it builds upon, so its limit counts theirs."""


def checks(context: Context) -> list[Check]:
    """Return the checks of the profile's providers; none without offloading."""
    from hivemind_exp.offload.settings import is_offloaded

    if context.resolved is None or not is_offloaded(context.config):
        return []
    found = [Check("api", "settings", settings, limit=5.0)]
    try:
        chain = services(context.config)
    except NodeError:
        return found  # the settings tell
    return found + [
        Check("api", f"{each.label}.{name}", partial(look, each), limit, deep=look is request)
        for each in chain
        for name, look, limit in _LOOKS
    ]
