"""Whether the profile is valid and fits into memory; if it does not fit, which settings would make it fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from hivemind_exp.control_group import container_memory
from hivemind_exp.errors import NodeError
from hivemind_exp.models.fused_kernels import installed
from hivemind_exp.models.memory import USUAL_PROMPT, MemoryEstimate, Shape, estimate
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks import accelerator, pushed
from swarmctl.doctor.checks.accelerator import BFLOAT16_SINCE, device_kind, other_memory, selected, used
from swarmctl.doctor.checks.hub import shape
from swarmctl.doctor.checks.machine import libraries
from swarmctl.terminal.sentences import count, size

if TYPE_CHECKING:
    from hivemind_exp.config import Config

RUNTIME = 3 * 2**28
"""Device memory that CUDA and its libraries use in addition to tensors, plus the cost of fragmentation."""
_SHORTEST = 64


def profile(context: Context) -> Finding:
    """Validate the profile as ``run`` would."""
    from hivemind_exp.tasks.registry import title
    from swarmctl.settings.checks import check_config

    if context.resolved is None:
        raise context.problem or NodeError("no profile")
    config = context.config
    check_config(config)
    tasks = ", ".join(map(title, config.tasks))
    return ok(f"{context.resolved.profile.label}: node {config.node.name}, {config.model.name} on {tasks}")


def memory(context: Context) -> Finding:
    """Compare the estimated memory for training with the memory of the device."""
    model, where = shape(context)
    if model is None:
        return skipped(f"{where}, so the memory it needs is unknown")
    kind = device_kind(context.device)
    half, fused = is_half(context, kind), is_fused(context, kind)
    free, place = _room(context, model, kind)
    room = free if kind in ("cuda", "xpu") else None
    need = estimate(context.config, model, half=half, fused=fused, room=room)
    usual = estimate(context.config, model, half=half, fused=fused, prompt=USUAL_PROMPT, room=room)
    text = (
        f"training {count(model.parameters)} parameters ({where}) needs about "
        + (f"{size(usual.peak)} for typical prompts, " if usual.peak < need.peak else "")
        + f"{size(need.peak)} for prompts of maximum length"
        + (f" in each of {processes} processes" if (processes := context.config.train.processes) > 1 else "")
        + f" ({_parts(need)})"
        + _chosen(context.config, need)
    )
    if free is None:
        return skipped(f"{text}; the device's memory is unknown")
    if need.peak <= free:
        return ok(f"{text}; {size(free)} {place}")
    copies = pushed.kept(context, model).memory if kind == "cpu" else 0
    chosen = room is not None
    changes = smaller(context.config, model, free, half=half, fused=fused, copies=copies, chosen=chosen)
    short = f"{text}; only {size(free)} {place}"
    if changes is None:
        return failed(f"{short}; no setting makes this model fit, so use a smaller one", "swarmctl run --profile demo")
    remedy = context.changed(**changes)
    told = ", ".join(f"{name.replace('__', '.')} = {value}".lower() for name, value in changes.items())
    # Few questions have the maximum length, so the node runs until it meets a batch of them.
    verdict = warning if usual.peak <= free else failed
    return verdict(f"{short}; it fits with {told}", remedy)


def _parts(need: MemoryEstimate) -> str:
    """Return the components of an estimate, without those that are zero."""
    values = asdict(need)
    larger = "activations" if need.activations >= need.generation else "generation"
    named = ("weights", "copies", "gradients", "optimizer", "logits", larger)
    return ", ".join(f"{name} {size(values[name])}" for name in named if values[name])


def _chosen(config: Config, need: MemoryEstimate) -> str:
    """Return what is chosen for settings that are "auto"."""
    sizes = {"train.micro_batch": config.train.micro_batch, "generation.batch": config.generation.batch}
    found = {"train.micro_batch": need.batches.micro_batch, "generation.batch": need.batches.generation}
    told = [f"{name} = {found[name]}" for name, value in sizes.items() if value == "auto"]
    if need.batches.checkpointing and not config.model.gradient_checkpointing:
        told.append("recomputed activations")
    return f", with {' and '.join(told)}" if told else ""


def is_half(context: Context, kind: str) -> bool:
    """Return whether the node computes in a 16-bit format. ``kind``: of its device."""
    dtype = context.config.model.dtype
    if dtype != "auto":
        return dtype != "float32"
    gpu = selected(context)
    return kind == "xpu" or (kind == "cuda" and (gpu is None or gpu.capability >= BFLOAT16_SINCE))


def is_fused(context: Context, kind: str) -> bool:
    """Return whether the node computes with fused kernels. ``kind``: of its device."""
    return kind == "cuda" and context.config.model.fused_kernels is not False and installed()


def _room(context: Context, model: Shape, kind: str) -> tuple[int | None, str]:
    """Return how many bytes a run may use, and a phrase that says where."""
    import psutil

    gpus = used(context) if kind == "cuda" else []
    if gpus:
        left, gpu = min(((each.free - _held(context, each), each) for each in gpus), key=lambda pair: pair[0])
        where = f"free on {gpu.name}" + (" (the fullest)" if len(gpus) > 1 else "")
        return max(0, left - RUNTIME), where + (" beside the server" if left < gpu.free else "")
    if kind != "cpu":
        amount = other_memory(context)
        return (None if amount is None else amount - RUNTIME), "on the GPU"
    limit, _ = container_memory()
    total = psutil.virtual_memory().total
    copies, parts = pushed.in_memory(context, model)
    processes, rest = context.config.train.processes, libraries(context.config)
    share = "" if processes == 1 else f", divided by {processes}"
    return (
        max(0, min(total, limit or total) - rest - copies) // processes,
        "available (this machine's memory minus "
        + "".join(f"{part}, " for part in parts)
        + f"{'and ' if parts else ''}{size(rest)} for PyTorch and the node's other processes{share})",
    )


def _held(context: Context, gpu: Gpu) -> int:
    """Return the bytes that the server that the node starts keeps on a GPU while the node trains."""
    from swarmctl.serving.gpus import place_server
    from swarmctl.serving.memory import kept_beside_node

    config = context.config
    if not config.offload.serving.command:
        return 0
    place = place_server(config, context.environment, len(accelerator.gpus(context)))
    return kept_beside_node(config, place, gpu)


def smaller(
    config: Config, shape: Shape, room: int, *, half: bool, fused: bool, copies: int = 0, chosen: bool
) -> dict[str, object] | None:
    """Return the settings (``section__key``) that make a run fit, the cheapest first; None if none do.

    ``copies``: how many more bytes there are if the node trains adapters. ``chosen``: whether batches that are "auto"
    are chosen to fit; otherwise they have the sizes of a CPU.

    First smaller batches, which change only the speed. Then gradient checkpointing, which is about a third slower.
    Then a model divided among several GPUs. Then adapters, which learn differently. Last, shorter completions, which
    change the task.
    """
    changes: dict[str, object] = {}

    def fits() -> bool:
        adapters = "model__lora__rank" in changes
        return needed().peak <= room + (copies if adapters else 0)

    def needed() -> MemoryEstimate:
        return estimate(_with(config, changes), shape, half=half, fused=fused, room=room if chosen else None)

    sizes = {"train__micro_batch": config.train.micro_batch, "generation__batch": config.generation.batch}
    if not chosen:
        fixed = needed().batches
        sizes = {"train__micro_batch": fixed.micro_batch, "generation__batch": fixed.generation}
    left = {name: value for name, value in sizes.items() if isinstance(value, int) and value > 1}
    while not fits() and left:
        need = needed()
        larger = "train__micro_batch" if need.activations >= need.generation else "generation__batch"
        name = larger if larger in left else next(iter(left))
        changes[name] = left[name] = left[name] // 2
        if left[name] == 1:
            del left[name]
    if not fits():
        changes["model__gradient_checkpointing"] = True
    if not fits() and not config.train.shard and config.why_not_shard() is None:
        changes["train__shard"] = True
    if not fits() and config.model.lora is None:
        changes["model__lora__rank"] = 16
    length = config.generation.max_completion_tokens
    while not fits() and length > _SHORTEST:
        length //= 2
        changes["generation__max_completion_tokens"] = length
    return changes if fits() else None


def _with(config: Config, changes: dict[str, object]) -> Config:
    values = config.model_dump()
    for name, value in changes.items():
        *tables, key = name.split("__")
        table = values
        for part in tables:
            table[part] = table[part] or {}
            table = table[part]
        table[key] = value
    return type(config).model_validate(values)
