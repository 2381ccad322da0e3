"""The services that generate rollouts for the node: one set of checks for each provider of the profile's chain."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from hivemind_exp.errors import NodeError
from swarmctl.doctor.check import Check, Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.api import host as apihost
from swarmctl.doctor.checks.api import request as apirequest
from swarmctl.doctor.checks.api import service as apiservice
from swarmctl.doctor.checks.api.chain import ApiService, services
from swarmctl.doctor.checks.installation import install


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
    from hivemind_exp.offload.ledger import bounded_price, price_of

    endpoint, offload = service.endpoint, context.config.offload
    cost = bounded_price(endpoint, offload.prices, capped=offload.limits.capped)
    if price_of(endpoint, offload.prices) is None:
        return warning(f"the price of {endpoint.label} is not known, and offload.limits.usd is unlimited")
    if cost.free:
        return ok(f"{endpoint.label} costs nothing")
    said = "as the profile says" if endpoint.name in offload.prices else "at most, at any hour and size"
    millions = f"{cost.input * 1e6:g} USD a million tokens in, {cost.output * 1e6:g} USD out"
    return ok(f"{endpoint.label}: {millions}, {said}")


def key(service: ApiService, context: Context) -> Finding:
    """Look for the key where a run would. Whether the service accepts it is another check."""
    found = service.key(context)
    return ok(found.reason if found else "no key here, and none is needed")


_LOOKS: tuple[tuple[str, Callable[[ApiService, Context], Finding], float], ...] = (
    ("price", price, 5.0),
    ("key", key, 6.0),
    ("host", apihost.host, 6.0),
    ("service", apiservice.service, 12.0),
    ("model", apiservice.model, 16.0),
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
    for each in chain:
        found += [Check("api", f"{each.label}.{name}", partial(look, each), limit) for name, look, limit in _LOOKS]
        request = partial(apirequest.request, each)
        found.append(Check("api", f"{each.label}.request", request, apirequest.SECONDS, deep=True))
    return found
