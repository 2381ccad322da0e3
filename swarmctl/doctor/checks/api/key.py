"""What a provider needs before it is asked: a key, and a price under which a cap can be kept."""

from __future__ import annotations

from hivemind_exp.errors import KeyProblem, NodeError
from swarmctl.doctor.check import Context, Finding, failed, ok, warning
from swarmctl.doctor.checks.api.chain import ApiService
from swarmctl.keys.keystore import Key, Keystore
from swarmctl.keys.locations import LocationKind, key_locations
from swarmctl.terminal.prompter import Prompter


def price(service: ApiService, context: Context) -> Finding:
    """Look what a million tokens cost, and whether a cap can be kept."""
    from hivemind_exp.offload.prices import bounded_price, price_of

    endpoint, offload = service.endpoint, context.config.offload
    try:
        cost = bounded_price(endpoint, offload.prices, capped=offload.limits.capped)
    except NodeError as error:
        return failed(error.message, error.next)
    if price_of(endpoint, offload.prices) is None:
        return warning(f"the price of {endpoint.label} is not known, and offload.limits.usd is unlimited")
    if cost.free:
        return ok(f"{endpoint.label} costs nothing")
    said = "as the profile says" if endpoint.name in offload.prices else "at most, at any hour and size"
    millions = f"{cost.input * 1e6:g} USD a million tokens in, {cost.output * 1e6:g} USD out"
    return ok(f"{endpoint.label}: {millions}, {said}")


def key(service: ApiService, context: Context) -> Finding:
    """Look for the key where a run would. Whether the service accepts it is another check."""
    found = find_key(service, context)
    if isinstance(found, KeyProblem):
        return failed(found.message, found.next)
    if found is None:
        return ok("no key here, and none is needed")
    return ok(found.sentence.removeprefix(f"key {found.name} "))


def find_key(service: ApiService, context: Context) -> Key | KeyProblem | None:
    """Return a provider's key, or why a run would not have it; None where none is needed. Looks once."""
    return context.facts.get(f"api.{service.endpoint.name}.key", lambda: _find(service, context))


def _find(service: ApiService, context: Context) -> Key | KeyProblem | None:
    endpoint, place = service.endpoint, context.config.offload.key
    name = endpoint.name
    if not endpoint.needs_key and not key_locations(name, context.environment):
        return None
    pin = LocationKind(place) if endpoint.needs_key and place != "auto" else None
    try:
        # Silent: a dialog of the keyring that waits for somebody is no answer to a check.
        found = Keystore(Prompter(silent=True), context.environment).find(name, base_url=endpoint.base_url, pin=pin)
    except KeyProblem as error:
        return error
    return found or KeyProblem(f"there is no key for {name}", next=set_key(service))


def set_key(service: ApiService) -> str:
    """Return the command that saves a provider's key."""
    import shlex

    from hivemind_exp.providers import PROVIDERS

    name = service.endpoint.name
    host = "" if name in PROVIDERS else f" --host {shlex.quote(service.endpoint.base_url)}"
    return f"swarmctl keys set {name}{host}"
