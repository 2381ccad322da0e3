"""What a provider answers to a request that costs nothing: whether it takes the key, how fast, under which limits."""

from __future__ import annotations

from collections.abc import Mapping

from hivemind_exp.errors import KeyProblem
from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.checks.api.chain import ApiService
from swarmctl.doctor.checks.api.host import find_way
from swarmctl.keys.finder import Key, LocationKind, command_to_set
from swarmctl.keys.probe import KeyTest as Probed
from swarmctl.keys.probe import probe

SECONDS = 4.0
"""Limit of one request."""
_LONGEST = 12
"""Digits of a number that is shown."""


def service(service: ApiService, context: Context) -> Finding:
    """Ask for what the service answers to valid keys only."""
    if blocked := why_not_asked(service, context):
        return blocked
    probed, key = ask(service, context), service.key(context)
    if probed.result == "valid":
        what = "answers" if key is None else "key accepted"
        return ok(f"{what} in {probed.seconds:.2f} s, {probed.detail}; {limits(probed.headers)}")
    if probed.result in ("refused", "no_credit"):
        cure = None if probed.result == "no_credit" else _other_key(service, key)
        return service.trouble(f"{service.endpoint.host}: {probed.detail}", cure)
    return _unwell(service, context, probed)


def why_not_asked(service: ApiService, context: Context) -> Finding | None:
    """Return why a service is not asked for anything; None where it may be."""
    if context.offline:
        return skipped("not asked, offline")
    try:
        service.key(context)
    except KeyProblem:
        return skipped("not asked: there is no key")
    if find_way(service, context).open is False:
        return skipped("not asked: its host cannot be reached")
    return None


def ask(service: ApiService, context: Context) -> Probed:
    """Return what the service answers; asks once."""
    name, url, key = service.endpoint.name, service.endpoint.base_url, service.secret(context)
    return context.facts.get(f"api.{name}.probe", lambda: probe(name, url, key, SECONDS))


def limits(headers: Mapping[str, str]) -> str:
    """Say which rate limits an answer tells of. What is no number is not repeated: a header may hold anything."""
    found = []
    for unit in ("requests", "tokens"):
        left, most = (_number(headers.get(f"x-ratelimit-{what}-{unit}")) for what in ("remaining", "limit"))
        if most is not None:
            found.append(f"{most:,} {unit}" if left is None else f"{left:,} of {most:,} {unit} left")
    return f"limits: {', '.join(found)}" if found else "it tells of no rate limits"


def _number(text: str | None) -> int | None:
    fine = text is not None and text.isascii() and text.isdigit() and len(text) <= _LONGEST
    return int(text) if text is not None and fine else None


def _other_key(service: ApiService, key: Key | None) -> str:
    """Return what brings another key: one in the environment would still win over one that is saved."""
    if key and key.spot.place is LocationKind.ENVIRONMENT:
        return f"unset {key.spot.source}"
    return command_to_set(service.endpoint)


def _unwell(service: ApiService, context: Context, probed: Probed) -> Finding:
    text = f"{service.endpoint.host}: {probed.detail}"
    if probed.status == 429:
        return warning(text, context.again("api"))
    if probed.status is not None and (probed.status == 404 or service.endpoint.chat.free):
        # Some servers have no list of models, or break over it, and generate all the same.
        return warning(f"{text}; whether it generates is seen with --deep", context.again("api", "--deep"))
    return service.trouble(text, context.again("api"))
