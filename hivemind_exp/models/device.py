"""Which device and number format a node computes with, and why not a better one."""

import os
from dataclasses import dataclass

import torch

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import DeviceError
from hivemind_exp.models.hardware import Hardware, detect_hardware, explain_unusable


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a node computes."""

    device: str
    """As torch names it."""
    dtype: str
    """float32, bfloat16 or float16."""
    accelerator: str | None
    """Its name for people; None on a CPU."""


def resolve_compute(model: ModelConfig, *, hardware: Hardware | None = None) -> Compute:
    """Choose device and number format.

    Raises ``DeviceError`` when the device asked for is absent, or when the machine has an accelerator that torch
    cannot use and the CPU was not asked for.
    """
    device = _choose(model.device, hardware)
    kind = device.partition(":")[0]
    dtype = model.dtype if model.dtype != "auto" else _best_dtype(kind)
    if dtype == "float16" and kind == "cpu":
        raise DeviceError("float16 cannot be trained on a CPU", next="swarmctl run --set model.dtype=float32")
    return Compute(device, dtype, _name(device))


def _choose(wanted: str, hardware: Hardware | None) -> str:
    if wanted == "cpu":
        return wanted
    has_xpu = hasattr(torch, "xpu") and torch.xpu.is_available()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "xpu": has_xpu}
    kind = wanted.partition(":")[0]
    if available.get(kind):
        return wanted
    if wanted == "auto" and any(available.values()):
        return next(kind for kind, usable in available.items() if usable)
    version = str(torch.__version__)
    problem = explain_unusable(hardware or detect_hardware(), torch_version=version, cuda=torch.version.cuda)
    if problem is not None:
        raise problem
    if wanted != "auto":
        raise DeviceError(
            f"there is no {kind} device on this machine that torch {version} can use",
            next="swarmctl run --device auto",
        )
    return "cpu"


def _best_dtype(kind: str) -> str:
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if kind == "xpu" else "float32"


def _name(device: str) -> str | None:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device.startswith("xpu"):
        return torch.xpu.get_device_name(device)
    return "Apple GPU" if device == "mps" else None


def pin_device(device: str) -> str:
    """Make ``device`` the only one of its kind that torch sees, and return its new name.

    Must run before torch looks at the devices: with several visible, transformers would spread one model over all.
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
        raise DeviceError(f"{device} is not among the devices that {variable}={visible} leaves visible")
    return kind
