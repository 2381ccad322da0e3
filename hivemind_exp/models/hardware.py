"""Find accelerators through their drivers, and explain why torch cannot use one. Does not import torch."""

import contextlib
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.errors import DeviceError
from hivemind_exp.models.nvidia import name_and_driver

CUDA_13_DRIVER = 580
"""First NVIDIA driver that runs CUDA 13. The default Linux wheel of torch is built for CUDA 13."""
NVIDIA, INTEL = "0x10de", "0x8086"
"""PCI vendor ids."""
PCI = Path("/sys/bus/pci/devices")
"""Where Linux lists the PCI devices."""
_WITHIN_PROCESSOR = "0000:00:02."
"""PCI address of Intel's integrated GPUs. They are very common, and too small to be worth an error."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine's accelerators, whether or not torch can use them."""

    nvidia: str | None = None
    """Name of the first NVIDIA GPU."""
    nvidia_driver: str | None = None
    driverless: bool = False
    """There is an NVIDIA GPU, but no working driver."""
    amd: bool = False
    intel: bool = False
    """There is a discrete Intel GPU."""
    apple: bool = False


def detect_hardware() -> Hardware:
    """Find accelerators through drivers and the PCI bus, not through torch.

    An NVIDIA GPU that is hidden with ``CUDA_VISIBLE_DEVICES`` does not count.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    name, driver = (None if hidden else name_and_driver()) or (None, None)
    return Hardware(
        nvidia=name,
        nvidia_driver=driver,
        driverless=not hidden and name is None and bool(pci_gpus(NVIDIA)),
        amd=Path("/dev/kfd").exists(),
        intel=any(not place.startswith(_WITHIN_PROCESSOR) for place in pci_gpus(INTEL)),
        apple=sys.platform == "darwin" and platform.machine() == "arm64",
    )


def pci_gpus(vendor: str, devices: Path = PCI) -> list[str]:
    """Return the PCI addresses of a vendor's GPUs, with or without drivers. Linux only."""
    found = []
    for device in sorted(devices.glob("*")):
        with contextlib.suppress(OSError):
            is_display = (device / "class").read_text().startswith("0x03")
            if is_display and (device / "vendor").read_text().strip() == vendor:
                found.append(device.name)
    return found


def explain_mismatch(hardware: Hardware, *, torch_version: str, cuda: str | None) -> DeviceError | None:
    """Return why this build of torch cannot use an accelerator, judged by versions alone; None if they match.

    ``cuda``: the CUDA version torch was built for, if any. A ROCm build has none either, so don't call this for one.
    """
    if hardware.nvidia is not None:
        driver = int((hardware.nvidia_driver or "0").split(".")[0])
        if cuda is None:
            pip = f"{shlex.quote(sys.executable)} -m pip install --force-reinstall"
            return _unusable(
                f"{_found(hardware)}, but torch {torch_version} was built without CUDA. Install the CUDA build",
                next=f"{pip} torch=={torch_version.partition('+')[0]}",
            )
        if int(cuda.split(".")[0]) >= 13 and driver < CUDA_13_DRIVER:
            return _unusable(
                f"{_found(hardware)}, but torch {torch_version} is built for CUDA {cuda}, which needs driver "
                f"{CUDA_13_DRIVER} or newer. Update the driver, install a torch build for CUDA 12"
            )
    elif hardware.amd:
        return _unusable(
            f"this machine has an AMD GPU with the ROCm driver, but torch {torch_version} was built without ROCm. "
            "Install the ROCm build of torch"
        )
    elif hardware.intel and not torch_version.endswith("+xpu"):
        return _unusable(
            f"this machine has an Intel GPU, but torch {torch_version} was built without XPU. "
            "Install the XPU build of torch (pytorch.org, Get Started)"
        )
    return None


def _unusable(why: str, *, next: str = "swarmctl run --device cpu") -> DeviceError:
    return DeviceError(f"{why}, or use the CPU with --device cpu", next=next)


def _found(hardware: Hardware) -> str:
    return f"this machine has a GPU, {hardware.nvidia} (driver {hardware.nvidia_driver})"


def explain_unusable(hardware: Hardware, *, torch_version: str, cuda: str | None) -> DeviceError | None:
    """Return why torch cannot use the machine's accelerator, and the fix; None if the machine has no accelerator.

    Call this when torch has found no accelerator. ``cuda``: the CUDA version torch was built for, if any.
    """
    mismatch = explain_mismatch(hardware, torch_version=torch_version, cuda=cuda)
    if mismatch is not None:
        return mismatch
    if hardware.nvidia is not None:
        return _unusable(
            f"{_found(hardware)}, but torch {torch_version} (CUDA {cuda}) cannot open it. Check that nvidia-smi works",
            next="nvidia-smi",
        )
    if hardware.driverless:
        return _unusable(
            "this machine has an NVIDIA GPU, but its driver is missing or does not respond. Install or repair the "
            "driver (in a container: give it access to the GPU)"
        )
    if hardware.intel:
        return _unusable(
            f"this machine has an Intel GPU, but torch {torch_version} cannot open it. Install Intel's compute runtime "
            "(Level Zero)"
        )
    if hardware.apple:
        return _unusable(
            f"this Mac has a GPU, but torch {torch_version} cannot use it (MPS needs macOS 14 or newer and an arm64 "
            "Python). Install an arm64 Python"
        )
    return None
