"""NVIDIA GPUs as NVML tells of them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, and what goes on there."""

    index: int
    name: str
    driver: str
    capability: tuple[int, int]
    total: int
    """Bytes."""
    free: int
    """Bytes."""
    users: tuple[str, ...] = ()
    """Who uses its memory: ``python (pid 17, 3.1 GiB)``, most first."""


def visible(gpus: list[Gpu], variable: str | None) -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order; names by UUID are not told apart."""
    if variable is None or not all(part.strip().lstrip("-").isdigit() for part in variable.split(",") if part):
        return gpus
    by_index = {gpu.index: gpu for gpu in gpus}
    result = []
    for part in variable.split(","):
        if not part or int(part) not in by_index:
            break  # CUDA ignores what comes after the first that is none
        result.append(by_index[int(part)])
    return result


def chosen(gpus: list[Gpu], device: str) -> Gpu | None:
    """Return the GPU that ``auto``, ``cuda`` or ``cuda:N`` means."""
    kind, _, number = device.partition(":")
    place = int(number or 0)
    return gpus[place] if kind in ("auto", "cuda") and place < len(gpus) else None


@contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def gpus() -> list[Gpu] | None:
    """Return the GPUs of this machine; None where there is no NVIDIA driver to ask."""
    import pynvml

    try:
        with _nvml() as nvml:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            return [_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    users: list[tuple[int, str]] = []
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        with suppress(nvml.NVMLError):  # not told in some containers
            users += [_user(process.pid, process.usedGpuMemory) for process in ask(handle)]
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        driver=driver,
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        total=memory.total,
        free=memory.free,
        users=tuple(text for _, text in sorted(set(users), reverse=True)),
    )


def _user(pid: int, used: int | None) -> tuple[int, str]:
    import psutil

    name = "a process outside this container"
    with suppress(psutil.Error):
        name = psutil.Process(pid).name()
    amount = f", {used / 2**30:.1f} GiB" if used else ""
    return used or 0, f"{name} (pid {pid}{amount})"
