"""The machine: memory, disk, file descriptors, cores, clock, containers and WSL."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import shutil
import struct
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp.control_group import container_memory, usable_cores
from hivemind_exp.models.memory import USUAL_PROMPT, checkpoint_bytes, estimate
from swarmctl.doctor.check import Context, Finding, bytes_in, failed, ok, quoted, skipped, warning
from swarmctl.doctor.checks import pushed
from swarmctl.doctor.checks.accelerator import device_kind
from swarmctl.doctor.checks.hub import ask_hub, shape
from swarmctl.keys.http_client import Unanswered
from swarmctl.paths import shown
from swarmctl.storage.hub_cache import endpoint
from swarmctl.terminal.sentences import size

if TYPE_CHECKING:
    from hivemind_exp.config import Config

LIBRARIES = 3 * 2**30
"""Host memory of the interpreter with torch, transformers and hivemind, and of the verifier workers."""
_TRAINING_PROCESS = 2**30
"""Host memory of each further training process with its libraries. On two cores, it used 0.6 GiB."""
DESCRIPTORS = 1024
"""The fewest open files that are enough for a node with some peers."""
_TOLERATED_S = 3.0
"""Clock difference above which hivemind rejects a peer."""
_UNSYNCHRONISED = 0x40
_TIMEX_STATUS = 40
"""Offset of ``status`` in ``struct timex`` on 64-bit Linux."""
_UNKNOWN = "cannot compute what the profile needs (see fit.memory)"


def memory(context: Context) -> Finding:
    """Compare free memory with the host memory that loading and training need."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit, used = container_memory()
    where = ""
    if limit is not None and limit < total:
        total, free, where = limit, min(free, limit - used), " (container limit)"
    have = f"{size(free)} free of {size(total)}{where}"
    if context.resolved is None:
        return ok(have)
    need, why = _need(context)
    if need is None:
        return skipped(f"{have}; {why}")
    text = f"{have}; a run needs about {size(need)}: {why}"
    if need > total:
        return failed(text, _smaller(context, need - total))
    return warning(text + "; close other programs", "ps aux --sort=-rss | head -n 6") if need > free else ok(text)


def _need(context: Context) -> tuple[int | None, str]:
    """Return how much memory of this machine a run needs, and for what; ``fit.memory`` uses the same figures."""
    known, _ = shape(context)
    if known is None:
        return None, _UNKNOWN
    copies, parts = pushed.in_memory(context, known)
    processes, rest = context.config.train.processes, libraries(context.config)
    each = "" if processes == 1 else f" in each of {processes} processes"
    if device_kind(context.device) == "cpu":
        training = estimate(context.config, known, half=False, prompt=USUAL_PROMPT).peak
        what, need = f"{size(training)} for training (see fit.memory)", processes * training + copies
    else:  # weights are loaded as float32 into this machine's memory before they move to the device
        training = known.parameters * 4
        what = f"{size(training)} to load the model before it moves to the GPU"
        need = max(processes * training, copies)  # nothing is pushed before
    later = "".join(f", {part}" for part in parts)
    return rest + need, f"{what}{each}{later}, and {size(rest)} for PyTorch and the node's other processes"


def _smaller(context: Context, missing: int) -> str:
    """Return the command for a run that needs less memory by so many bytes: with adapters, if that is enough."""
    known, _ = shape(context)
    if known is not None and pushed.kept(context, known).memory >= missing:
        return context.changed(model__lora__rank=16)
    return "swarmctl run --profile demo"


def libraries(config: Config) -> int:
    """Return the host memory that a node's processes need besides training, in bytes."""
    return LIBRARIES + (config.train.processes - 1) * _TRAINING_PROCESS


def disk(context: Context) -> Finding:
    """Compare the free space with the size of the checkpoints that a node keeps, and of the weights it pushes."""
    place = _existing(context.nodes)
    if not os.access(place, os.W_OK):
        return failed(f"{shown(place)} is not writable", f"ls -ld {quoted([place])}")
    free, need, why = shutil.disk_usage(place).free, 2**30, _UNKNOWN
    if context.resolved is not None and (known := shape(context)[0]) is not None:
        keep, files = context.config.checkpoint.keep, pushed.kept(context, known).disk
        whole = (keep + 1) * checkpoint_bytes(context.config, known)
        # New checkpoints replace those that the node already has.
        need = whole - bytes_in(context.files.checkpoints)
        why = f"{keep} checkpoints plus a new one take {size(whole)}"
        if files:
            folder = pushed.folder(context)
            there = _existing(folder)
            why += f", and the files with pushed weights {size(files)}"
            if os.stat(there).st_dev == os.stat(place).st_dev:
                need += files
            elif (left := shutil.disk_usage(there).free) < files:
                return failed(f"{size(left)} free for {shown(folder)}; {why}", f"df -h {quoted([there])}")
    room = f"{size(free)} free for {shown(context.nodes)}"
    text = room if context.machine_only else f"{room}; {why}"
    if free < need:
        return failed(text, f"df -h {quoted([place])}")
    if context.machine_only:
        return ok(text)
    return skipped(text) if why == _UNKNOWN else ok(text)


def _existing(path: Path) -> Path:
    """Return a path, or the directory above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def descriptors(_context: Context) -> Finding:
    """Check the limit on open files, which a node with many peers can reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS:
        return ok("no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} open files allowed")
    text = f"only {soft:,} open files allowed; connections to peers need {DESCRIPTORS:,}"
    bound = f", and the hard limit is {hard:,}" if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS else ""
    return warning(text + bound, more_files())


def more_files() -> str:
    """Return the command that allows more open files; if the hard limit is too low for that, one that shows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        return "ulimit -Hn"
    return f"ulimit -n {4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)}"


def threads(context: Context) -> Finding:
    """Compare torch's number of threads with the cores that this process may use."""
    cores = usable_cores()
    given = context.environment.get("OMP_NUM_THREADS", "")
    text = f"{cores} core{'s' if cores > 1 else ''}"
    if context.resolved is None:
        return ok(text)
    wanted = context.config.model.threads
    if wanted > cores:
        more = f"model.threads = {wanted}: the threads would wait for each other"
        return warning(f"{text}, but {more}", context.changed(model__threads=cores))
    big = context.config.model.name != "tiny" and device_kind(context.device) == "cpu"
    if big and not wanted and given.isdigit() and int(given) < cores:
        return warning(f"{text}, but OMP_NUM_THREADS={given} leaves some idle", "unset OMP_NUM_THREADS")
    return ok(text + (f", OMP_NUM_THREADS={given}" if given else ""))


def clock(context: Context) -> Finding:
    """Compare the clock with the hub's Date header. If that fails, ask the kernel whether the clock is synchronized."""
    why = "not compared with the hub (offline)"
    if not context.offline:
        try:
            offset, why = _offset(endpoint(context.environment)), "the hub's response has no valid date"
        except Unanswered as error:
            offset, why = None, f"cannot reach the hub: {error}"
        if offset is not None:
            # The header has whole seconds and the response takes time, so half a second means nothing.
            text = f"{abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} the hub's clock"
            if abs(offset) > _TOLERATED_S:
                linux = "sudo timedatectl set-ntp true" if shutil.which("timedatectl") else "date -u"
                remedy = "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else linux
                return warning(f"{text}; peers reject differences above {_TOLERATED_S:g} s", remedy)
            return ok(
                "within a second or two of the hub's clock" if abs(offset) > 0.5 else "agrees with the hub's clock"
            )
    match synchronised():
        case None:
            return skipped(f"{why}; this system does not report whether its clock is synchronized")
        case True:
            return ok("synchronized by a time service")
    return skipped(f"{why}; no time service is running")


def _offset(address: str) -> float | None:
    """Return how many seconds this clock is ahead of a server's; None without a valid date. Raises Unanswered."""
    before = time.time()
    date = ask_hub("HEAD", address + "/").headers.get("date")
    middle = (before + time.time()) / 2
    try:
        # The server drops the fraction of a second, which is half a second on average.
        return middle - parsedate_to_datetime(date).timestamp() - 0.5 if date else None
    except ValueError:
        return None


def synchronised() -> bool | None:
    """Return whether a time service keeps the clock synchronized, according to the kernel; None if it cannot say.

    Calls the kernel directly: Python has no ``adjtimex``, and containers have no ``timedatectl``.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    buffer = ctypes.create_string_buffer(512)  # larger than needed; modes = 0 only reads
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or adjtimex(buffer) < 0:
        return None
    (status,) = struct.unpack_from("i", buffer, _TIMEX_STATUS)
    return not status & _UNSYNCHRONISED


def wsl(context: Context, release: Path = Path("/proc/sys/kernel/osrelease")) -> Finding:
    """Distinguish WSL 2, WSL 1 (which has no CUDA) and native Linux."""
    try:
        kernel = release.read_text().strip()
    except OSError:
        return skipped("not Linux" if sys.platform != "linux" else f"no {release}")
    if "microsoft" not in kernel.lower():
        return ok("not WSL")
    if "wsl2" in kernel.lower() or "microsoft-standard" in kernel:
        return ok(f"WSL 2 ({kernel}); keep nodes on the Linux disk, not under /mnt")
    text = "WSL 1 has neither CUDA nor the file locks that a node needs; Windows can convert this system to WSL 2"
    name = context.environment.get("WSL_DISTRO_NAME")
    convert = shlex.join(["wsl.exe", "--set-version", name, "2"]) if name else "wsl.exe --list --verbose"
    return failed(text, convert)
