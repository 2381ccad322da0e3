"""What a provider answers to a request that costs nothing: does it take the key, how fast, and has it the model?"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from hivemind_exp.errors import KeyProblem, ProviderError
from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.checks.api.chain import ApiService
from swarmctl.doctor.checks.api.host import reach
from swarmctl.keys.finder import LocationKind, command_to_set
from swarmctl.keys.probe import KeyTest as Probed
from swarmctl.keys.probe import probe

SECONDS = 4.0
"""Limit of one request."""
_MOST = 5000
"""Names that are looked at: a list is the service's word, and may be of any length."""


def service(service: ApiService, context: Context) -> Finding:
    """Ask for what the service answers to valid keys only."""
    if blocked := why_not_asked(service, context):
        return blocked
    probed, key = ask(service, context), service.key(context)
    if probed.result == "valid":
        what = "answers" if key is None else "key accepted"
        return ok(f"{what} in {probed.seconds:.2f} s, {probed.detail}; {limits(probed.headers)}")
    text = f"{service.endpoint.host}: {probed.detail}"
    if probed.result == "no_credit":
        return service.trouble(text)
    if probed.result == "refused":
        # A key in the environment would still win over one that is saved.
        given = key is not None and key.spot.place is LocationKind.ENVIRONMENT
        return service.trouble(text, f"unset {key.spot.source}" if key and given else command_to_set(service.endpoint))
    return _unwell(service, context, probed)


def why_not_asked(service: ApiService, context: Context) -> Finding | None:
    """Return why a service is not asked for anything; None where it may be."""
    if context.offline:
        return skipped("not asked, offline")
    try:
        service.key(context)
        reach(service, context)
    except KeyProblem:
        return skipped("not asked: there is no key")
    except ProviderError:
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
    return int(text) if text and re.fullmatch("[0-9]{1,12}", text) else None


def _unwell(service: ApiService, context: Context, probed: Probed) -> Finding:
    text = f"{service.endpoint.host}: {probed.detail}"
    if probed.status == 429:
        return warning(text, context.again("api"))
    if probed.status is not None and (probed.status == 404 or service.endpoint.chat.free):
        # Some servers have no list of models, or break over it, and generate all the same.
        return warning(f"{text}; whether it generates is seen with --deep", context.again("api", "--deep"))
    return service.trouble(text, context.again("api"))


def model(service: ApiService, context: Context) -> Finding:
    """Look for the model in the service's list."""
    if blocked := why_not_asked(service, context):
        return blocked
    listed = _listed(service, context)
    if listed is None:
        return skipped("there is no list of models to look into")
    names = [name for name in listed[:_MOST] if name.isprintable()]
    wanted = service.endpoint.model
    if not names:
        return skipped(f"the list of models is empty, so whether {wanted} is there is not told")
    if any(_same(wanted, name) for name in names):
        return ok(f"{wanted} is listed, one of {len(names):,}")
    near = get_close_matches(wanted, map(_plain, names), n=1, cutoff=0.6)
    text = f"{wanted} is not among the {len(names):,} models listed" + (f"; {near[0]} is" if near else "")
    cure = service.fetch or (service.with_model(context, near[0]) if near else None)
    if service.endpoint.chat.serves_own_weights:
        # Adapters and deployments of one's own are served without being listed.
        return warning(text, cure)
    return service.trouble(text, cure)


def _listed(service: ApiService, context: Context) -> tuple[str, ...] | None:
    probed = ask(service, context)
    if probed.result != "valid" or probed.models is not None:
        return probed.models
    # The service answers about the key alone, and lists its models to everyone.
    endpoint = service.endpoint
    return probe(endpoint.name, endpoint.base_url, service.secret(context), SECONDS, path="/models").models


def _same(wanted: str, listed: str) -> bool:
    """Whether a name of the list is the one that is wanted: Gemini lists with a prefix, Ollama with a tag."""
    return _plain(listed) in (wanted, _plain(wanted), f"{wanted}:latest")


def _plain(name: str) -> str:
    return name.removeprefix("models/")
