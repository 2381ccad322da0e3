"""Settings that no longer exist: refused in commands and profiles, and ignored in existing nodes' records."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swarmctl.settings.problems import Problem
from swarmctl.settings.schema import SettingPath, dotted
from swarmctl.settings.sources import REMEMBERED, Layer


class Retired(NamedTuple):
    """A setting that no longer exists, because it had no effect."""

    default: float
    """The former default, which old configurations contain. It is ignored without a message."""
    reason: str


_NOTHING_TO_CLIP = (
    "each rollout is used for one optimizer step, so the ratio to the policy at its start is 1 and there is nothing to "
    "clip. To limit the size of a step, set train.max_grad_norm"
)
RETIRED: Mapping[SettingPath, Retired] = {
    ("train", "epsilon"): Retired(0.2, _NOTHING_TO_CLIP),
    ("train", "epsilon_high"): Retired(0.28, _NOTHING_TO_CLIP),
    ("train", "delta"): Retired(4.0, _NOTHING_TO_CLIP),
}


def drop_retired(layers: Sequence[Layer]) -> list[Problem]:
    """Remove settings that no longer exist. Return a problem for each value that is not the former default."""
    found = []
    for path, (default, reason) in RETIRED.items():
        for layer in layers:
            table = layer.values if path in layer.values else layer.values.get(path[:-1])
            key: Any = path if table is layer.values else path[-1]
            if not isinstance(table, dict) or key not in table:
                continue
            if table.pop(key) != default and layer.origin != REMEMBERED:  # ``changes`` reports that one
                place = "" if layer.origin.startswith(("$", "--")) else f"{layer.origin}: "
                name = layer.origin if layer.origin.startswith("$") else dotted(path)
                message = f"{place}{name} is no longer a setting: {reason}"
                found.append(Problem(dotted(path), message, None, layer.origin))
    return found
