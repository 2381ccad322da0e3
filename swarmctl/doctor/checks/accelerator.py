"""The accelerator: what exists, whether the installed torch can use it, and who else uses it. Imports no torch."""

import platform
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

from hivemind_exp.models.fused_kernels import INSTALL, installed
from hivemind_exp.models.hardware import Hardware, detect_hardware, explain_mismatch
from hivemind_exp.models.nvidia import Gpu, nvidia_gpus
from hivemind_exp.processes.ending import how_ended
from swarmctl.doctor.check import Context, Finding, ask, failed, ok, skipped, unknown, warning
from swarmctl.doctor.checks.installation import PINS, install, torch_build
from swarmctl.terminal.sentences import several, size

DEEP_SECONDS = 120.0
_DRM = Path("/sys/class/drm")
_TURING, _VOLTA = (7, 5), (7, 0)
"""Compute capabilities. CUDA 13 has no code for GPUs before Turing."""
_WITHOUT_PASCAL, _WITHOUT_VOLTA = (12, 8), (2, 11)
"""The first CUDA whose builds of torch leave out GPUs before Volta, and the first torch in which they leave out Volta.

Source: github.com/pytorch/pytorch, issues 157517 and 172352.
"""
_CUDA_12_6 = "https://download.pytorch.org/whl/cu126"
"""The index of the builds of torch that support the oldest GPUs."""
_BLACKWELL = (10, 0)
_CUDA_FOR_BLACKWELL = (12, 8)
BFLOAT16_SINCE = (8, 0)
_BUSY = 0.5
"""Share of the memory that other programs may use before there is a warning."""
_MACOS_WITH_MPS = 14
_FOR_GPUS = ("default", "gpu")
"""Built-in profiles whose settings are too large for a CPU."""
_ON_CPU = "swarmctl run --profile cpu"


def gpus(context: Context) -> list[Gpu]:
    """Return this machine's NVIDIA GPUs, which are looked up once; none without a working driver."""
    return context.once("nvidia", nvidia_gpus) or []


def visible(found: list[Gpu], variable: str | None) -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` selects, in its order; all of them if it names UUIDs."""
    if variable is None or not all(part.strip().lstrip("-").isdigit() for part in variable.split(",") if part):
        return found
    by_index = {gpu.index: gpu for gpu in found}
    indices = (int(part) if part else -1 for part in variable.split(","))
    # CUDA ignores everything after the first invalid index.
    return [by_index[index] for index in takewhile(by_index.__contains__, indices)]


def chosen(found: list[Gpu], device: str) -> Gpu | None:
    """Return the GPU that ``auto``, ``cuda`` or ``cuda:N`` selects."""
    kind, _, number = device.partition(":")
    place = int(number or 0)
    return found[place] if kind in ("auto", "cuda") and place < len(found) else None


def _found_gpus(context: Context) -> list[Gpu]:
    """Return the NVIDIA GPUs that are visible in this environment."""
    return visible(gpus(context), context.environment.get("CUDA_VISIBLE_DEVICES"))


def selected(context: Context) -> Gpu | None:
    """Return the NVIDIA GPU that the profile selects."""
    return chosen(_found_gpus(context), context.device)


def used(context: Context) -> list[Gpu]:
    """Return the NVIDIA GPUs that the profile's processes use: the selected one, or the first ``train.processes``."""
    processes, gpu = context.config.train.processes, selected(context)
    return _found_gpus(context)[:processes] if processes > 1 and gpu is not None else [gpu] if gpu is not None else []


def device_kind(wanted: str) -> str:
    """Return cuda, mps, xpu or cpu. For ``auto``, guess from the drivers that are installed."""
    kind = wanted.partition(":")[0]
    if kind != "auto":
        return kind
    hardware = detect_hardware()
    if hardware.nvidia is not None or hardware.amd:
        return "cuda"
    return "mps" if hardware.apple else "cpu"


def device(context: Context) -> Finding:
    """Check whether this build of torch supports the hardware, from version numbers only."""
    wanted, hardware = context.device, detect_hardware()
    version, cuda, rocm = torch_build()
    if wanted == "cpu":
        return ok(f"the profile uses the CPU ({_seen(hardware)})")
    if hardware.driverless:
        return failed("this machine has an NVIDIA GPU but no working driver", "nvidia-smi")
    if wanted.partition(":")[0] in ("auto", "cuda") and rocm is None:
        mismatch = explain_mismatch(hardware, torch_version=version, cuda=cuda)
        if mismatch is not None:
            own = context.resolved is not None and (mismatch.next or "").startswith("swarmctl")
            return failed(mismatch.message, context.changed(model__device="cpu") if own else mismatch.next)
    missing = _missing(context, wanted, hardware)
    lacks = _too_few(context, hardware) if missing is None else failed(missing, context.changed(model__device="auto"))
    if lacks is not None:
        return lacks
    if hardware.nvidia is not None and (gpu := selected(context)):
        return _capable(context, gpu, version, cuda)
    text = f"{_seen(hardware)}; torch {version}"
    return _on_cpu(context, text) if hardware == Hardware() else ok(text)


def _too_few(context: Context, hardware: Hardware) -> Finding | None:
    """Return a finding if there are fewer GPUs than ``train.processes``. Those of AMD are not counted here."""
    processes = 1 if context.resolved is None else context.config.train.processes
    found = len(_found_gpus(context))
    if processes == 1 or found >= processes or hardware.amd:
        return None
    text = f"train.processes is {processes}, but this machine has {several(found, 'visible NVIDIA GPU')}"
    return failed(text, context.changed(train__processes=max(1, found)))


def _on_cpu(context: Context, text: str) -> Finding:
    if context.resolved is None or context.resolved.profile.reference not in _FOR_GPUS:
        return ok(text)
    name = context.resolved.profile.name
    return warning(f"{text}. The profile {name} is for a GPU, so it is slow here; use the profile cpu", _ON_CPU)


def _seen(hardware: Hardware) -> str:
    if hardware.nvidia is not None:
        return f"{hardware.nvidia}, driver {hardware.nvidia_driver}"
    if hardware.amd:
        return "AMD GPU with the ROCm driver"
    return "Apple silicon" if hardware.apple else "no usable NVIDIA, AMD or Apple GPU"


def _missing(context: Context, wanted: str, hardware: Hardware) -> str | None:
    kind = wanted.partition(":")[0]
    if kind == "cuda" and not hardware.amd and selected(context) is None:
        found = several(len(_found_gpus(context)), "visible NVIDIA GPU")
        return f"model.device is {wanted}, but this machine has {found}"
    if kind == "mps" and not hardware.apple:
        return "model.device is mps, but this is not a Mac with Apple silicon"
    if kind == "mps" and int(platform.mac_ver()[0].split(".")[0] or 0) < _MACOS_WITH_MPS:
        return f"model.device is mps, which needs macOS {_MACOS_WITH_MPS} or newer"
    if kind == "xpu" and not intel_gpu():
        return "model.device is xpu, but no Intel GPU was found"
    return None


def intel_gpu(devices: Path = _DRM) -> bool:
    """Return whether an Intel GPU that can compute (a render node) exists."""
    return any(path.read_text().strip() == "0x8086" for path in devices.glob("renderD*/device/vendor"))


def _capable(context: Context, gpu: Gpu, version: str, cuda: str | None) -> Finding:
    level = ".".join(map(str, gpu.capability))
    text = f"{gpu.name}, compute capability {level}, driver {gpu.driver}; torch {version} (CUDA {cuda})"
    built = _numbers(cuda or "0.0")
    tested = f"torch=={PINS['torch'][1]}"
    if gpu.capability < _oldest(version, built):
        old = f"{text} does not support a GPU this old; install the build for CUDA 12.6"
        return failed(old, install(tested, build=True, index=_CUDA_12_6))
    if gpu.capability >= _BLACKWELL and built < _CUDA_FOR_BLACKWELL:
        return failed(f"{text} does not support a GPU this new", install(tested, build=True))
    if context.resolved is not None and context.config.model.dtype == "bfloat16" and gpu.capability < BFLOAT16_SINCE:
        return warning(
            f"{text}: this GPU can only emulate bfloat16, which is slow", context.changed(model__dtype="float32")
        )
    wanted = "auto" if context.resolved is None else context.config.model.fused_kernels
    if wanted is not False and not installed():
        return warning(f"{text}; without liger-kernel, whose kernels make steps faster", INSTALL)
    return ok(text)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _oldest(version: str, cuda: tuple[int, ...]) -> tuple[int, int]:
    """Return the compute capability of the oldest GPUs that a build of torch supports, as far as this is known."""
    if cuda >= (13, 0) or (cuda >= _WITHOUT_PASCAL and _numbers(version) >= _WITHOUT_VOLTA):
        return _TURING
    return _VOLTA if cuda >= _WITHOUT_PASCAL else (0, 0)


def memory(context: Context) -> Finding:
    """Report how much of the accelerator's memory is free and which processes use the rest."""
    gpu = selected(context)
    if gpu is None:
        amount = other_memory(context)
        return ok(f"{size(amount)} in total") if amount else skipped("no GPU that reports its memory")
    text = f"{size(gpu.free)} free of {size(gpu.total)}"
    others = f"; used by {', '.join(gpu.users[:3])}" if gpu.users else ""
    if gpu.free < gpu.total * _BUSY:
        return warning(text + (others or "; cannot see which processes use it"), "nvidia-smi")
    return ok(text + others)


def other_memory(context: Context) -> int | None:
    """Return the memory of an AMD GPU, or the share that Apple silicon gives its GPU; None if neither is used."""
    wanted, hardware = context.device, detect_hardware()
    if hardware.apple and wanted in ("auto", "mps"):
        import psutil

        return int(psutil.virtual_memory().total * 0.75)  # Metal's recommended working set
    if hardware.amd and wanted != "cpu":
        totals = sorted(int(path.read_text()) for path in _DRM.glob("card*/device/mem_info_vram_total"))
        return totals[-1] if totals else None
    return None


def compute(context: Context) -> Finding:
    """Run a matrix product and one training step of the profile's shape with torch, in a separate process."""
    from swarmctl.run import trainer_process as trainer

    shorter = max(1, context.config.generation.max_completion_tokens // 2)
    smaller = context.changed(generation__max_completion_tokens=shorter)
    try:
        done = ask(
            trainer.command("hivemind_exp.runner.selftest"),
            limit=DEEP_SECONDS - 2,
            environment=trainer.environment(context.config),
            text=context.config.model_dump_json(),
        )
    except subprocess.TimeoutExpired:
        return unknown(f"no training step finished within {DEEP_SECONDS:g} s", smaller)
    answer = trainer.last_object(done.stdout.encode())
    if answer is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return failed(f"torch {how_ended(done.returncode)}: {last}", f"{sys.executable} -c 'import torch'")
    if "error" in answer:
        return failed(str(answer["error"]), smaller if answer.get("out_of_memory") else answer.get("next"))
    peak = answer.get("peak_bytes")
    held = f", peak memory {size(peak)}" if isinstance(peak, int) else ""
    return ok(
        f"{answer['device']} ({answer['dtype']}): matrix product correct; a training step of {answer['rows']} rows × "
        f"{answer['tokens']} tokens with {answer['model']} took {answer['seconds']:.2f} s{held}"
    )
