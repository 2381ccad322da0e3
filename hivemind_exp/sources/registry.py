"""The sources that can complete prompts, by name: one line per source."""

from collections.abc import Callable

from hivemind_exp.config import OFF, Config
from hivemind_exp.offload.settings import is_distilled
from hivemind_exp.sources import api, hints, local, peers, served
from hivemind_exp.sources.source import NodeParts, Source

SOURCES: dict[str, Callable[[NodeParts], Source | None]] = {
    "local": local.build,
    "api": api.build,
    "peers": peers.build,
    hints.NAME: hints.build,
    "policy": served.build,
}
"""Builds each source, or returns None if the node does not use it. An entry whose name is a value of ``offload.kind``
replaces the API when that kind is set."""


def remote_name(config: Config) -> str | None:
    """Return the name of the source for the slots that this machine does not fill, or fills with an API's help.

    None: this machine fills all.
    """
    if config.offload.provider == OFF or is_distilled(config):
        return None
    if config.offload.teach == "hints":
        return hints.NAME
    return config.offload.kind if config.offload.kind in SOURCES else "api"


def build_sources(parts: NodeParts) -> dict[str, Source]:
    """Return the sources that a node uses, by name. Raises ``NodeError`` if one cannot work."""
    built = {name: build(parts) for name, build in SOURCES.items()}
    return {name: source for name, source in built.items() if source is not None}
