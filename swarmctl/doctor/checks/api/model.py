"""Whether a provider lists the model that the profile wants."""

from __future__ import annotations

from difflib import get_close_matches

from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.checks.api.chain import ApiService
from swarmctl.doctor.checks.api.service import SECONDS, ask, why_not_asked
from swarmctl.keys.probe import probe

_MOST = 5000
"""Names that are looked at: a list is the service's word, and may be of any length."""


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
