"""What a node's requests have in common, whether they generate or grade."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.errors import ProviderError
from hivemind_exp.rollouts.types import RoundSpend


@dataclass(slots=True, eq=False)
class SharedRequests:
    """The state of all requests of a node. Use it from one event loop."""

    flying: set[asyncio.Task[Any]] = field(default_factory=set)
    """Tasks with a request in flight."""
    closing: bool = False
    """Whether the node is stopping, so that no more requests are sent."""
    spent: dict[int, dict[tuple[str, str], RoundSpend]] = field(default_factory=lambda: defaultdict(dict))
    """What each round has used so far, by provider and model."""
    uncapped: ProviderError | None = None
    """Why no cap can be enforced any more, so that no more requests are sent."""
