"""Whether the server that the node starts fits onto its GPU, beside what the node itself keeps there."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from hivemind_exp.models.memory import NodeMemory, estimate
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor.check import Context, Finding, Status, failed, ok, skipped, warning
from swarmctl.doctor.checks import accelerator, fit, machine, pushed
from swarmctl.doctor.checks.hub import shape
from swarmctl.terminal.sentences import size

if TYPE_CHECKING:
    from hivemind_exp.models.memory import Shape
    from swarmctl.serving.gpus import Place
    from swarmctl.serving.memory import ServerMemory

MOST_SHARE = 0.95
"""The largest share of a GPU's memory that is suggested for a server."""


def applies(context: Context) -> bool:
    """Whether the profile's node starts a server."""
    return context.resolved is not None and bool(context.config.offload.serving.command)


def memory(context: Context) -> Finding:
    """Compare the estimated memory of the server with its share of the GPU, and with what is free there."""
    from swarmctl.serving.gpus import place_server  # imports pydantic
    from swarmctl.serving.memory import memory_share, server_memory

    config, (model, where) = context.config, shape(context)
    if model is None:
        return skipped(f"{where}, so the memory that the server needs is unknown")
    found = accelerator.gpus(context)
    place = place_server(config, context.environment, len(found))
    need = server_memory(config, model, place)
    parts = asdict(need)
    named = ", ".join(f"{name} {size(parts[name])}" for name in ("weights", "adapters", "working", "cache"))
    text = f"the server needs about {size(need.total)} ({named})"
    _, copies = pushed.in_memory(context, model)
    if copies:
        text += f"; this machine's memory must hold {' and '.join(copies)}"
        found_here = machine.memory(context)
        if pushed.kept(context, model).versions and found_here.status is Status.FAILED:
            return failed(f"{text}, which is too small: {found_here.text}", found_here.remedy or "")
    gpu = next((each for each in found if str(each.index) == place.gpu), None)
    if gpu is None:
        return skipped(f"{text}; {'its GPU is unknown' if found else 'there is no NVIDIA GPU to compare with'}")
    beside = _kept(context, model, place) if place.shared else 0
    share = memory_share(config, place)
    text += f", and gets {size(int(share * gpu.total))} of GPU {gpu.index} ({share:.0%} of its memory)"
    text += f"; {size(max(0, gpu.free - beside))} is free there"
    text += f" beside the {size(beside)} that the node needs" if beside else ""
    return _verdict(context, text, place, need, gpu=gpu, room=gpu.free - beside)


def _verdict(context: Context, text: str, place: Place, need: ServerMemory, *, gpu: Gpu, room: int) -> Finding:
    """Compare a server's needs with its share of a GPU. ``room``: the bytes that it can get there."""
    from swarmctl.serving.memory import memory_share, with_share

    config, share = context.config, memory_share(context.config, place)
    most = math.floor(100 * min(MOST_SHARE, room / gpu.total)) / 100
    wanted = min(most, math.ceil(100 * need.total / gpu.total) / 100)
    remedy = context.changed(offload__serving__arguments=with_share(config, wanted))
    if need.least > most * gpu.total:
        if place.shared and not place.turns and config.train.processes == 1:
            changes: dict[str, object] = {"offload__serving__turns": "on", "offload__ahead": 0}
            return failed(f"{text}. Both at once don't fit; try to let them take turns", context.changed(**changes))
        without = context.changed(offload__provider="off", offload__serving__command="")
        return failed(f"{text}. It does not fit; let this machine generate", without)
    if share > most:
        return failed(f"{text}. It would not start; give it less", remedy)
    if need.least > share * gpu.total:
        return failed(f"{text}. It would not start; give it more", remedy)
    if need.total > share * gpu.total:
        wait = f"{text}. Some completions will wait for others"
        return warning(f"{wait}; give it more", remedy) if wanted > share else warning(f"{wait}.")
    return ok(text)


def _kept(context: Context, model: Shape, place: Place) -> int:
    """Return the bytes of the GPU that the node itself needs while the server is awake."""
    config, half, fused = context.config, fit.is_half(context, "cuda"), fit.is_fused(context, "cuda")
    if place.turns:
        node = NodeMemory(config, model, half=half)
        return node.weights + node.optimizer + fit.RUNTIME
    return estimate(config, model, half=half, fused=fused).peak + fit.RUNTIME
