"""An accelerator that torch cannot use is an error that suggests a fix, never a silent fallback to the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import DeviceError
from hivemind_exp.models.device import available_memory, pin_device, resolve_compute, share_gpus
from hivemind_exp.models.hardware import INTEL, NVIDIA, Hardware, detect_hardware, explain_unusable, pci_gpus

no_accelerator = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a usable accelerator"
)
GEFORCE = Hardware(nvidia="NVIDIA GeForce RTX 4090", nvidia_driver="550.54.14")


@pytest.mark.parametrize(
    ("hardware", "torch_version", "cuda", "cause"),
    [
        (GEFORCE, "2.13.0+cpu", None, "built without CUDA"),
        (GEFORCE, "2.13.0+cu130", "13.0", "needs driver 580 or newer"),
        (Hardware(nvidia="NVIDIA H100", nvidia_driver="590.10"), "2.13.0", "13.0", "cannot open it"),
        (Hardware(driverless=True), "2.13.0", "13.0", "driver is missing"),
        (Hardware(amd=True), "2.13.0", "13.0", "built without ROCm"),
        (Hardware(intel=True), "2.13.0", "13.0", "built without XPU"),
        (Hardware(intel=True), "2.13.0+xpu", None, "cannot open it"),
        (Hardware(apple=True), "2.13.0", None, "MPS needs macOS 14"),
    ],
)
def test_each_reason_has_a_fix(hardware: Hardware, torch_version: str, cuda: str | None, cause: str) -> None:
    error = explain_unusable(hardware, torch_version=torch_version, cuda=cuda)
    assert error is not None
    assert cause in error.message
    assert "--device cpu" in error.message
    assert error.next


def test_a_build_without_cuda_is_replaced_by_the_same_version() -> None:
    error = explain_unusable(GEFORCE, torch_version="2.13.0+cpu", cuda=None)
    assert error is not None
    assert (error.next or "").endswith("-m pip install --force-reinstall torch==2.13.0")


def test_gpus_are_found_on_the_pci_bus_without_drivers(tmp_path: Path) -> None:
    for place, vendor, kind in (
        ("0000:00:02.0", "0x8086", "0x030000"),
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # the audio device of a graphics card
    ):
        (tmp_path / place).mkdir()
        (tmp_path / place / "vendor").write_text(f"{vendor}\n")
        (tmp_path / place / "class").write_text(f"{kind}\n")
    assert pci_gpus(NVIDIA, tmp_path) == ["0000:01:00.0"]
    assert pci_gpus(INTEL, tmp_path) == ["0000:00:02.0"]
    assert pci_gpus(NVIDIA, tmp_path / "nowhere") == []


def test_a_machine_without_accelerator_is_fine() -> None:
    assert explain_unusable(Hardware(), torch_version="2.13.0", cuda="13.0") is None


@no_accelerator
def test_auto_fails_on_an_unusable_gpu_and_cpu_does_not() -> None:
    with pytest.raises(DeviceError, match="GeForce"):
        resolve_compute(ModelConfig(device="auto"), hardware=GEFORCE)
    with pytest.raises(DeviceError, match="GeForce"):
        resolve_compute(ModelConfig(device="cuda"), hardware=GEFORCE)
    assert resolve_compute(ModelConfig(device="cpu"), hardware=GEFORCE).device == "cpu"


@no_accelerator
@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_a_missing_device_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=f"found no {device} device on this machine"):
        resolve_compute(ModelConfig(device=device), hardware=Hardware())


@no_accelerator
def test_without_accelerator_auto_chooses_the_cpu_and_float32() -> None:
    compute = resolve_compute(ModelConfig(), hardware=Hardware())
    assert (compute.device, compute.dtype, compute.accelerator) == ("cpu", "float32", None)


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="float16"):
        resolve_compute(ModelConfig(device="cpu", dtype="float16"))


def test_gpus_hidden_on_purpose_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware = detect_hardware()
    assert (hardware.nvidia, hardware.driverless) == (None, False)


@pytest.mark.parametrize(
    ("device", "visible", "expected", "pinned"),
    [
        ("cuda:1", None, "1", "cuda"),
        ("cuda", None, "0", "cuda"),
        ("auto", None, "0", "auto"),
        ("cuda:1", "3,5", "5", "cuda"),
        ("auto", "3,5", "3", "auto"),
        ("auto", "", "", "auto"),
        ("cpu", None, None, "cpu"),
    ],
)
def test_only_one_device_stays_visible(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, expected: str | None, pinned: str
) -> None:
    import os

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    # Restored by monkeypatch, which has seen the variable.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert pin_device(device) == pinned
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_an_index_beyond_the_visible_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DeviceError, match="no device cuda:2: CUDA_VISIBLE_DEVICES=3 makes only 1 visible"):
        pin_device("cuda:2")


def test_the_memory_available_on_a_cpu_respects_a_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = available_memory("cpu")
    assert whole is not None
    assert whole > 2**20
    monkeypatch.setattr("hivemind_exp.models.device.container_memory", lambda: (2**20, 2**19))
    assert available_memory("cpu") == 2**19


@pytest.mark.parametrize(
    ("visible", "found", "expected"),
    [(None, 4, ["0", "1"]), ("3,1,2", 3, ["3", "1"]), ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"])],
)
def test_each_process_gets_a_gpu_of_its_own(
    visible: str | None, found: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert share_gpus(2) == expected


@pytest.mark.parametrize(("found", "words", "following"), [(0, "finds none", 1), (3, "finds 3", 3)])
def test_more_processes_than_gpus_are_refused(
    found: int, words: str, following: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(DeviceError, match=f"needs 4 NVIDIA GPUs, but torch {words}") as refused:
        share_gpus(4)
    assert refused.value.next == f"swarmctl run --gpus {following}"
