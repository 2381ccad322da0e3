"""The providers of a profile's chain, as its checks see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarmctl.doctor.check import Context, Finding, failed, warning

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.offload.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class ApiService:
    """One provider of the chain with its model."""

    endpoint: Endpoint
    label: str
    """What its checks are called: its name, with the model where one provider stands there twice."""
    place: int
    """In ``offload.fallback``; -1 for the one that is asked first."""

    @property
    def trouble(self) -> Callable[..., Finding]:
        """How bad it is when it cannot be used: a run begins without those that only stand in."""
        return failed if self.place < 0 else warning

    def with_model(self, context: Context, model: str) -> str:
        """Return the command that runs the same with another model of this provider."""
        if self.place < 0:
            return context.changed(offload__model=model)
        fallback = list(context.config.offload.fallback)
        fallback[self.place] = f"{self.endpoint.name}:{model}"
        return context.changed(offload__fallback=fallback)


def services(config: Config) -> list[ApiService]:
    """Return the providers in the order in which they are asked. Raises ConfigurationError."""
    from hivemind_exp.offload.endpoints import chain

    found = [(place, endpoint) for place, endpoint in enumerate(chain(config), -1) if endpoint is not None]
    names = Counter(endpoint.name for _, endpoint in found)
    return [
        ApiService(endpoint, endpoint.name if names[endpoint.name] == 1 else endpoint.label, place)
        for place, endpoint in found
    ]
