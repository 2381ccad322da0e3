"""The machine: memory, disk, file descriptors, cores, and what it runs in."""

import os
import resource
import shutil
import sys
from pathlib import Path

from hivemind_exp.models.memory import USUAL_PROMPT, checkpoint_bytes, estimate
from swarmctl.doctor.check import Context, Finding, bytes_in, failed, ok, quoted, skipped, warning
from swarmctl.doctor.checks import model
from swarmctl.paths import shown
from swarmctl.terminal.sentences import size

LIBRARIES = 3 * 2**30
"""Host memory of the interpreter with torch, transformers, hivemind and the workers that verify."""
DESCRIPTORS = 1024
"""Fewer open files than this, and a node with some peers runs out of them."""
_UNLIMITED = 1 << 60
_UNKNOWN = "what the profile needs is unknown, see fit"


def memory(context: Context) -> Finding:
    """Compare free memory with what loading and training take on the host."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit, used = container_memory()
    where = ""
    if limit is not None and limit < total:
        total, free, where = limit, min(free, limit - used), " (limit of the container)"
    have = f"{size(free)} free of {size(total)}{where}"
    if context.resolved is None:
        return ok(have)
    need, why = _need(context)
    if need is None:
        return ok(f"{have}; {why}")
    text = f"{have}; the profile needs about {size(need)} {why}"
    smaller = "swarmctl run --profile demo"
    if need > total:
        return failed(text, smaller)
    return warning(text + ": close something", "ps aux --sort=-rss | head -n 6") if need > free else ok(text)


def _need(context: Context) -> tuple[int | None, str]:
    shape = model.shape(context).shape
    if shape is None:
        return None, _UNKNOWN
    if model.device_kind(context.device) == "cpu":
        need = estimate(context.config, shape, half=False, prompt=USUAL_PROMPT)
        return LIBRARIES + need.peak, "for training on the CPU"
    # Weights arrive in float32 in host memory before they move.
    return LIBRARIES + shape.parameters * 4, "to load the model"


def container_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int | None, int]:
    """Return the memory limit of the control group this process is in, and what is used of it; None: unlimited.

    ``psutil`` knows the whole machine alone.
    """
    try:
        groups = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines())
    except (OSError, ValueError):
        return None, 0
    candidates = []
    for controllers, path in groups.items():
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        candidates += [(base / path.strip("/"), *names), (base, *names)]
    for directory, limit_name, used_name in candidates:
        try:
            limit, used = (directory / limit_name).read_text().strip(), int((directory / used_name).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(limit) < _UNLIMITED:
            return int(limit), used
    return None, 0


def disk(context: Context) -> Finding:
    """Compare the space where nodes live with the checkpoints that a node keeps."""
    place = next(path for path in (context.nodes, *context.nodes.parents) if path.exists())
    if not os.access(place, os.W_OK):
        return failed(f"{shown(place)} cannot be written", f"ls -ld {quoted([place])}")
    free, need, why = shutil.disk_usage(place).free, 2**30, _UNKNOWN
    if context.resolved is not None and (shape := model.shape(context).shape) is not None:
        keep = context.config.checkpoint.keep
        whole = (keep + 1) * checkpoint_bytes(context.config, shape)
        # New ones replace those that the node has already.
        need = whole - bytes_in(context.files.checkpoints)
        why = f"{keep} checkpoints and a new one take {size(whole)}"
    text = f"{size(free)} free for {shown(context.nodes)}; {why}"
    return failed(text, f"df -h {quoted([place])}") if free < need else ok(text)


def descriptors(_context: Context) -> Finding:
    """Look at the limit of open files, which a node with many peers reaches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS:
        return ok("no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} open files allowed")
    text = f"only {soft:,} open files allowed; peers and their streams need {DESCRIPTORS:,}"
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        return warning(f"{text}, and the hard limit is {hard:,}", "ulimit -Hn")
    return warning(text, f"ulimit -n {4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)}")


def threads(context: Context) -> Finding:
    """Compare the threads that torch will use with the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = context.environment.get("OMP_NUM_THREADS", "")
    text = f"{cores} core{'s' if cores > 1 else ''}"
    if context.resolved is None:
        return ok(text)
    wanted = context.config.model.threads
    if wanted > cores:
        return warning(
            f"{text}, but model.threads = {wanted}: they would wait for each other",
            context.changed(model__threads=cores),
        )
    big = context.config.model.name != "tiny" and model.device_kind(context.device) == "cpu"
    if big and not wanted and given.isdigit() and int(given) < cores:
        return warning(f"{text}, but OMP_NUM_THREADS={given} leaves them idle", "unset OMP_NUM_THREADS")
    return ok(text + (f", OMP_NUM_THREADS={given}" if given else ""))


def wsl(_context: Context, release: Path = Path("/proc/sys/kernel/osrelease")) -> Finding:
    """Tell WSL 2 from WSL 1, which has no CUDA, and from a real Linux."""
    try:
        kernel = release.read_text().strip()
    except OSError:
        return skipped("not Linux" if sys.platform != "linux" else f"no {release}")
    if "microsoft" not in kernel.lower():
        return ok("not WSL")
    if "wsl2" in kernel.lower() or "microsoft-standard" in kernel:
        return ok(f"WSL 2 ({kernel}); keep nodes on its own disk, not under /mnt")
    return failed("WSL 1: it has neither CUDA nor the file locks a node needs", "wsl.exe --set-default-version 2")
