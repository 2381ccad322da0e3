"""How long a round may take without a GPU, for ``run --dry-run``."""

from collections.abc import Mapping
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.models import smollm2
from hivemind_exp.models.memory import Shape
from hivemind_exp.offload.settings import is_offloaded
from swarmctl.terminal.pace import cpu_round, round_size

_LARGE_ROUND = 8 * 128
"""Tokens of a round of the profile ``cpu``, the largest round that a model of unknown size may have unmentioned."""
_SUITABLE = ("cpu", "demo", "smol")
"""Built-in profiles that are meant for machines without a GPU, too."""


def cpu_pace(config: Config, found: Mapping[str, Any], profile: str) -> str | None:
    """Return how long a round may take on the CPU; None with a GPU, if rounds are quick, or if an API generates.

    Parameters
    ----------
    found
        What the trainer found: the device, and the model's number of parameters.
    profile
        The profile's reference: a built-in one's name, or a path.
    """
    if found.get("device") != "cpu" or (is_offloaded(config) and config.offload.share == 1):
        return None
    completions, tokens = config.game.groups * config.game.group_size, config.generation.max_completion_tokens
    parameters = _parameters(config, found)
    if parameters is None:
        large = completions * tokens > _LARGE_ROUND
        pace = f"{round_size(completions, tokens)} may take an hour or more" if large else None
    else:
        pace = cpu_round(parameters, completions, tokens)
    if pace is None:
        return None
    advice = "" if profile in _SUITABLE else ". For a machine without a GPU: --profile cpu"
    return f"no GPU: {pace}{advice}"


def _parameters(config: Config, found: Mapping[str, Any]) -> int | None:
    """Return the model's number of weights; None if it is not known before its download."""
    known = (found.get("model") or {}).get("parameters")
    if known is None and config.model.name == smollm2.NAME:
        shape = Shape.read(smollm2.SHAPE)
        return None if shape is None else shape.parameters
    return None if known is None else int(known)
