"""Choose the device and number format that a node computes with, or explain why an accelerator is unusable."""

import os
from dataclasses import dataclass

import psutil
import torch

from hivemind_exp.config import ModelConfig
from hivemind_exp.control_group import container_memory, usable_physical_cores
from hivemind_exp.errors import DeviceError
from hivemind_exp.models.hardware import Hardware, detect_hardware, explain_unusable
from hivemind_exp.models.model_location import TINY


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a node computes."""

    device: str
    """The device's name in torch."""
    dtype: str
    """float32, bfloat16 or float16."""
    accelerator: str | None
    """Display name of the accelerator; None on a CPU."""


def resolve_compute(model: ModelConfig, *, hardware: Hardware | None = None) -> Compute:
    """Choose the device and the number format.

    Raises ``DeviceError`` if the requested device does not exist, if the machine has an accelerator that torch cannot
    use and the CPU was not requested, or for float16 on a CPU.
    """
    device = _choose(model.device, hardware)
    kind = device.partition(":")[0]
    dtype = model.dtype
    if dtype == "auto":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else kind == "xpu"
        dtype = "bfloat16" if bf16 else "float32"
    if dtype == "float16" and kind == "cpu":
        raise DeviceError("cannot train in float16 on a CPU", next="swarmctl run --set model.dtype=float32")
    return Compute(device, dtype, _name(device))


def use_threads(model: ModelConfig, processes: int = 1) -> None:
    """Set how many threads torch uses on the CPU in each of a node's processes."""
    # A tiny model is 5 to 20 times slower on many threads than on one.
    threads = 1 if model.name == TINY else max(1, usable_physical_cores() // processes)
    torch.set_num_threads(model.threads or threads)


def _choose(wanted: str, hardware: Hardware | None) -> str:
    libraries = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    available = {kind: library.is_available() for kind, library in libraries.items()}
    if wanted == "cpu":
        return "cpu"
    kind = wanted.partition(":")[0]
    if kind != "auto" and available[kind]:
        return wanted
    found = next((each for each, usable in available.items() if usable), None) if kind == "auto" else None
    if found is not None:
        return found
    version = str(torch.__version__)
    problem = explain_unusable(hardware or detect_hardware(), torch_version=version, cuda=torch.version.cuda)
    if problem is None and kind != "auto":
        message = f"torch {version} found no {kind} device on this machine"
        problem = DeviceError(message, next="swarmctl run --device auto")
    if problem is not None:
        raise problem
    return "cpu"


def _name(device: str) -> str | None:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device.startswith("xpu"):
        return torch.xpu.get_device_name(device)
    return "Apple GPU" if device == "mps" else None


def available_memory(device: str) -> int | None:
    """Return the bytes that a run may use on a device; None if its driver does not report them."""
    if device == "cpu":
        memory = psutil.virtual_memory()
        limit, used = container_memory()
        return memory.available if limit is None else min(memory.available, limit - used)
    if device.startswith(("cuda", "xpu")):
        library = torch.cuda if device.startswith("cuda") else torch.xpu
        return int(library.mem_get_info(device)[0])
    return int(torch.mps.recommended_max_memory()) if device == "mps" else None


def free_memory(device: str) -> int | None:
    """Return the bytes that tensors of this process can still take on a GPU; None if it does not report them.

    Counts what torch keeps for later.
    """
    if not device.startswith(("cuda", "xpu")):
        return None
    library = torch.cuda if device.startswith("cuda") else torch.xpu
    kept = library.memory_reserved(device) - library.memory_allocated(device)
    return int(library.mem_get_info(device)[0]) + int(kept)


def release_kept(device: str) -> None:
    """Give back the memory that torch keeps for later, so that other programs can take it."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("xpu"):
        torch.xpu.empty_cache()


def share_gpus(processes: int) -> list[str]:
    """Return the GPU that each process sees, as a value of ``CUDA_VISIBLE_DEVICES``.

    Raises ``DeviceError`` if there are fewer.
    """
    found = torch.cuda.device_count()
    if found < processes:
        there = "finds none" if found == 0 else f"finds {found}"
        raise DeviceError(
            f"train.processes = {processes} needs {processes} NVIDIA GPUs, but torch {there} on this machine",
            next=f"swarmctl run --gpus {max(1, found)}",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(place) for place in range(found)])[:processes]


def pin_device(device: str) -> str:
    """Make ``device`` the only one of its kind that torch sees, and return its new name.

    Must run before torch queries the devices. With several visible, transformers would spread one model over all.
    """
    kind, _, index = device.partition(":")
    variable = {"cuda": "CUDA_VISIBLE_DEVICES", "auto": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}.get(kind)
    if variable is None:
        return device
    visible = os.environ.get(variable)
    choices = visible.split(",") if visible else []
    place = int(index or 0)
    if visible is None:
        os.environ[variable] = str(place)
    elif place < len(choices):
        os.environ[variable] = choices[place]
    elif choices:
        raise DeviceError(
            f"no device {device}: {variable}={visible} makes only {len(choices)} visible",
            next="swarmctl run --device auto",
        )
    return kind
