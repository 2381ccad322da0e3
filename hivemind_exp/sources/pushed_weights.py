"""How many pushes of a node's weights are kept, in memory and on disk, and how much that takes. No torch import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind_exp.source_kinds import POLICY_SERVER

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.models.memory import Shape

COMPARING = 2
"""Copies of whole weights that exist besides while a server is checked, at most: the weights as they are now, if no
push has them, and the model before its first step."""


def on_servers(ahead: int, *, whole: bool) -> int:
    """Return how many pushes the servers keep, besides one that is being loaded.

    ``ahead``: the rounds that are requested early. ``whole``: whether a push replaces all weights.
    """
    return 1 if whole else ahead + 1


def remembered(ahead: int) -> int:
    """Return how many pushes the node remembers, to check the completions that come from them."""
    return ahead + 2


@dataclass(frozen=True, slots=True)
class PushedWeights:
    """What the pushes of one node take."""

    versions: int
    """Copies of the whole weights in this machine's memory, at most; 0 for adapters, which are small."""
    memory: int
    """Their bytes."""
    disk: int
    """Bytes of the files for the servers, at most: those they have, and those of one more push."""


def pushed_weights(config: Config, shape: Shape, ahead: int) -> PushedWeights:
    """Return what a node's pushes take. Weights and adapters are in float32. ``ahead``: as for ``on_servers``."""
    from hivemind_exp.config import OFF  # imports pydantic
    from hivemind_exp.models.memory import adapter_weights

    offload, lora = config.offload, config.model.lora
    if offload.provider == OFF or offload.kind != POLICY_SERVER:
        return PushedWeights(0, 0, 0)
    size = 4 * (shape.parameters if lora is None else adapter_weights(shape, lora.rank))
    versions = 0 if lora is not None else remembered(ahead) + COMPARING
    return PushedWeights(versions, versions * size, (on_servers(ahead, whole=lora is None) + 1) * size)
