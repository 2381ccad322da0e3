"""``--deep``: one word from each provider, which costs money where the provider does. Never without being asked for."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import TYPE_CHECKING

from hivemind_exp.errors import NodeError
from hivemind_exp.providers import Provider
from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.checks.api.chain import ApiService, services
from swarmctl.doctor.checks.api.service import limits, why_not_asked
from swarmctl.keys.http_client import HttpAnswer, Unanswered
from swarmctl.keys.probe import send
from swarmctl.rollouts.database import reading
from swarmctl.terminal.sentences import dollars

if TYPE_CHECKING:
    from hivemind_exp.offload.api.chat import ChatAnswer, RequestDialect
    from hivemind_exp.offload.ledger import Price

SECONDS = 60.0
TOKENS = 16
"""Of the answer, at most."""
_REQUEST_S = 30.0
_TRIES = 4
"""Requests at most: a service that refuses a parameter is asked again without it, and has billed nothing."""
_DAY = 86400
_MESSAGES = ({"role": "user", "content": "Say OK."},)


def notice(context: Context) -> str | None:
    """Say what asking will cost at most, before anything is asked; None where nothing is."""
    from hivemind_exp.offload.settings import is_offloaded

    if context.resolved is None or context.offline or not is_offloaded(context.config):
        return None
    try:
        chain = services(context.config)
        most = [_most(each, context) for each in chain]
    except NodeError:
        return None  # the checks tell, and nothing is asked
    asked = "provider is asked for one word" if len(chain) == 1 else "providers are asked for one word each"
    known = sum(usd for usd in most if usd is not None)
    cost = "an amount that is not known" if None in most else f"at most {dollars(known)}"
    return f"The profile's {asked}, which costs {cost}."


def request(service: ApiService, context: Context) -> Finding:
    """Ask for a word, with the parameters that a run would send."""
    if blocked := why_not_asked(service, context):
        return blocked
    try:
        most = _most(service, context)
        over = _over_cap(context, most or 0.0)
    except NodeError as error:
        return skipped(f"not asked, {error.message}")
    return over or _asked(service, context, most)


def _price(service: ApiService, context: Context) -> Price | None:
    """Return the price, None where it is not known and need not be. Raises ConfigurationError."""
    from hivemind_exp.offload.ledger import bounded_price, price_of

    offload = context.config.offload
    bounded_price(service.endpoint, offload.prices, capped=offload.limits.capped)
    return price_of(service.endpoint, offload.prices)


def _most(service: ApiService, context: Context) -> float | None:
    """Return dollars that the word costs at most; None where nobody knows. Raises ConfigurationError."""
    from hivemind_exp.offload.ledger import worst_case

    price = _price(service, context)
    return None if price is None else worst_case(price, [each["content"] for each in _MESSAGES], 1, TOKENS)


def _over_cap(context: Context, usd: float) -> Finding | None:
    """Return that a cap of the node leaves no room for ``usd`` more. Raises NodeError."""
    limits = context.config.offload.limits
    if usd == 0 or not context.files.ledger.is_file():
        return None
    with reading(context.files.ledger) as ledger:
        spent, today = _spent(ledger, 0), _spent(ledger, time.time() // _DAY * _DAY)
    for name, cap, used in (("usd", limits.usd, spent), ("usd_per_day", limits.usd_per_day, today)):
        if isinstance(cap, float) and used + usd > cap:
            return skipped(f"not asked: of offload.limits.{name} = {cap:.2f} USD, {dollars(used)} are spent")
    return None


def _spent(ledger: sqlite3.Connection, since: float) -> float:
    query = "SELECT TOTAL(CASE state WHEN 'settled' THEN usd ELSE reserved END) FROM requests WHERE t >= ?"
    return float(ledger.execute(query, (since,)).fetchone()[0])


def _asked(service: ApiService, context: Context, most: float | None) -> Finding:
    from hivemind_exp.offload.api.chat import FaultKind, RequestDialect, RequestFailed, read_answer, refusal

    style = RequestDialect(service.endpoint.chat.max_tokens, supports_n=False)
    spent_at_most = "an unknown amount" if most is None else f"up to {dollars(most)}"
    for _ in range(_TRIES):
        try:
            raw = _sent(service, context, style)
            if raw.status == 200:
                return _told(service, context, read_answer(raw.body, raw.headers), raw.seconds, most)
            raise refusal(raw.status, raw.body, raw.headers)
        except Unanswered as error:
            return service.trouble(f"no answer: {error}; that may have cost {spent_at_most}")
        except RequestFailed as fault:
            if fault.trouble is FaultKind.BAD_REQUEST and style.adapt(fault.detail):
                continue
            cost = f"; that may have cost {spent_at_most}" if fault.billed else ""
            verdict = warning if fault.trouble is FaultKind.SLOW_DOWN else service.trouble
            return verdict(f"{_hidden(service, context, fault.detail)}{cost}", context.again("api", "--deep"))
    return service.trouble(f"it accepts none of {_TRIES} ways to ask", context.again("api", "--deep"))


def _sent(service: ApiService, context: Context, style: RequestDialect) -> HttpAnswer:
    """Send one request. Raises Unanswered."""
    from hivemind_exp.offload.api.chat import SamplingParams, body

    endpoint, config = service.endpoint, context.config
    sampling = SamplingParams(config.generation.temperature, TOKENS, 0, config.offload.reasoning_effort)
    content = json.dumps(body(endpoint, style, _MESSAGES, 1, sampling, 0)).encode()
    row = Provider(endpoint.name, endpoint.base_url)
    return send(row, f"{endpoint.base_url}/chat/completions", service.secret(context), _REQUEST_S, content)


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
