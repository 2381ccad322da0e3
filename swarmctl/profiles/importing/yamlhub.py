"""What RL Swarm's YAML says of pushing to the hub, in settings of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmctl.profiles.importing import rl_swarm as rlswarm
from swarmctl.profiles.importing.result import NO_COUNTERPART, Mapped
from swarmctl.profiles.importing.rl_swarm import Carry

_SAVE_STEPS = 500
"""TRL's default of save_steps, at which it pushes by default."""


def push(settings: Mapping[str, Any], result: Mapped) -> None:
    """``hub_*`` counts only where ``push_to_hub`` is on, and its rhythm is that of the checkpoints."""
    used = settings.get("push_to_hub") is True
    for key, carry in rlswarm.HUB.items():
        if key in settings and used:
            result.carry(key, carry, settings[key])
        elif key in settings:
            result.leave(key, NO_COUNTERPART, "push_to_hub is not on, so it had no effect there")
    if "hub_strategy" in settings:
        result.leave("hub_strategy", NO_COUNTERPART, "hub.every says when")
    if "push_to_hub" not in settings:
        return
    if not used:
        result.leave("push_to_hub", NO_COUNTERPART, "off is the default")
    elif any(each.setting == "hub.repo" for each in result.carried):
        result.carry("push_to_hub", Carry("hub.every", rlswarm.whole, "in rounds; 0: after the last"), _every(settings))
    else:
        result.leave("push_to_hub", NO_COUNTERPART, 'hub.repo = "OWNER/NAME" must say where to')


def _every(settings: Mapping[str, Any]) -> int:
    """Return the rounds between pushes. A node without a last round never comes to an end."""
    try:
        ends = rlswarm.whole(settings.get("max_rounds", 0)) > 0
        steps = max(1, rlswarm.whole(settings.get("save_steps", _SAVE_STEPS)))
    except (TypeError, ValueError, OverflowError):
        ends, steps = False, _SAVE_STEPS
    return 0 if ends and settings.get("hub_strategy") == "end" else steps
