"""NVIDIA GPUs, as the driver's library NVML reports them. Does not import torch."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU and its current use."""

    index: int
    name: str
    driver: str
    capability: tuple[int, int]
    total: int
    """Bytes."""
    free: int
    """Bytes."""
    users: tuple[str, ...] = ()
    """The processes that use its memory, largest first: ``python (pid 17, 3.1 GiB)``."""


def nvidia_gpus() -> list[Gpu] | None:
    """Return this machine's NVIDIA GPUs; None without a working driver."""
    return _ask(lambda nvml: [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())])


def count_gpus() -> int:
    """Return how many NVIDIA GPUs the driver lists; 0 without a driver."""
    return _ask(lambda nvml: int(nvml.nvmlDeviceGetCount())) or 0


def name_and_driver() -> tuple[str, str] | None:
    """Return the name of the first NVIDIA GPU and the driver's version; None without a GPU or a driver."""
    return _ask(_name_and_driver)


def _ask(read: Callable[[Any], _Found]) -> _Found | None:
    """Return what ``read`` finds out from NVML; None without a working driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return read(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _name_and_driver(nvml: Any) -> tuple[str, str] | None:
    if nvml.nvmlDeviceGetCount() == 0:
        return None
    return str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))), str(nvml.nvmlSystemGetDriverVersion())


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    users: list[tuple[int, str]] = []
    for processes in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        with suppress(nvml.NVMLError):  # not available in some containers
            users += [_user(process.pid, process.usedGpuMemory) for process in processes(handle)]
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
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
