"""What this machine keeps of weights that the node pushes to a server: copies in memory, and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp.sources.pushed_weights import PushedWeights, pushed_weights
from swarmctl.doctor.check import Context
from swarmctl.doctor.checks import accelerator
from swarmctl.terminal.sentences import size

if TYPE_CHECKING:
    from hivemind_exp.models.memory import Shape
    from swarmctl.serving.gpus import Place


def kept(context: Context, model: Shape) -> PushedWeights:
    """Return what the profile's node keeps of its pushes."""
    from hivemind_exp.sources.schedule import rounds_ahead  # imports pydantic

    place = _place(context)
    ahead = 0 if place is not None and place.turns else rounds_ahead(context.config)
    return pushed_weights(context.config, model, ahead)


def in_memory(context: Context, model: Shape) -> tuple[int, list[str]]:
    """Return the host memory for copies of weights besides those that are trained, and for which, as phrases."""
    found, parts = kept(context, model), []
    total = found.memory
    if found.versions:
        parts.append(f"{size(found.memory)} for {found.versions} copies of the weights that are pushed")
    place = _place(context)
    if place is not None and place.turns:
        asleep = model.parameters * (4 if context.config.model.dtype == "float32" else 2)
        parts.append(f"{size(asleep)} for the weights of the server while it sleeps")
        total += asleep
    return total, parts


def folder(context: Context) -> Path:
    """Return the directory for pushed weights, which may not exist yet."""
    chosen = context.config.offload.serving.folder
    return Path(chosen).expanduser() if chosen else context.files.served


def _place(context: Context) -> Place | None:
    """Return where the node's own server runs; None if it starts none."""
    from swarmctl.serving.gpus import place_server

    if not context.config.offload.serving.command:
        return None
    return place_server(context.config, context.environment, len(accelerator.gpus(context)))
