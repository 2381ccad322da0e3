"""The sources that can complete prompts, by name: one line per source."""

from collections.abc import Callable
from dataclasses import dataclass

from hivemind_exp.config import OFF, Config
from hivemind_exp.offload.settings import is_distilled
from hivemind_exp.source_kinds import COUNTS_AS, POLICY_SERVER
from hivemind_exp.sources import api, hints, local, peers, policy_server
from hivemind_exp.sources.source import NodeParts, Source


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """How a source is built, and what it needs."""

    build: Callable[[NodeParts], Source | None]
    """Returns None if the node's parts lack what the source needs."""
    uses_api: bool = False
    """Whether it needs the API engine (``NodeParts.offload``), which gets the API keys and keeps to the cap."""


SOURCES: dict[str, SourceEntry] = {
    "local": SourceEntry(local.build),
    "api": SourceEntry(api.build, uses_api=True),
    "peers": SourceEntry(peers.build),
    hints.NAME: SourceEntry(hints.build, uses_api=True),
    POLICY_SERVER: SourceEntry(policy_server.build),
}
"""An entry whose name is a value of ``offload.kind`` is used instead of ``api`` if that kind is set."""


def other_source_name(config: Config) -> str | None:
    """Return the name of the source for the slots that this machine does not fill, or fills with an API's help.

    None: this machine fills all.
    """
    if config.offload.provider == OFF or is_distilled(config):
        return None
    if config.offload.teach == "hints":
        return hints.NAME
    return config.offload.kind if config.offload.kind in SOURCES else "api"


def uses_api(config: Config) -> bool:
    """Whether a node needs the API engine for completions, hints or scores."""
    name = other_source_name(config)
    return is_distilled(config) if name is None else SOURCES[name].uses_api


def build_sources(parts: NodeParts) -> dict[str, Source]:
    """Return the sources that a node uses, by name. Raises ``NodeError`` if one cannot work."""
    unused = {"api", hints.NAME, *COUNTS_AS} - {other_source_name(parts.config)}
    built = {name: entry.build(parts) for name, entry in SOURCES.items() if name not in unused}
    found = {name: source for name, source in built.items() if source is not None}
    offload = parts.config.offload
    assert offload.kind not in found or found[offload.kind].kind is offload.counts_as, "COUNTS_AS has another kind"
    return found
