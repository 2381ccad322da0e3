"""Who can complete prompts, by name: a line for each."""

from collections.abc import Callable

from hivemind_exp.config import OFF, Config
from hivemind_exp.sources import api, local, peers
from hivemind_exp.sources.source import NodeParts, Source

SOURCES: dict[str, Callable[[NodeParts], Source | None]] = {
    "local": local.build,
    "api": api.build,
    "peers": peers.build,
}
"""What builds each source; None where the node has no use for it. A line that is named as a value of ``offload.kind``
stands for the API wherever that is set."""


def remote_name(config: Config) -> str | None:
    """Return who fills the places that the schedule gives away; None: this machine fills all."""
    if config.offload.provider == OFF:
        return None
    return config.offload.kind if config.offload.kind in SOURCES else "api"


def build_sources(parts: NodeParts) -> dict[str, Source]:
    built = {name: build(parts) for name, build in SOURCES.items()}
    return {name: source for name, source in built.items() if source is not None}
