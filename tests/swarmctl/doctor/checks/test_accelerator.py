"""The accelerator and fit checks: each kind of machine as its drivers report it, and (slow) this machine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.models.hardware import NVIDIA, Hardware, pci_gpus
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor import command
from swarmctl.doctor.check import Check, Context, Status
from swarmctl.doctor.checks import accelerator, fit
from swarmctl.doctor.checks.installation import PINS
from tests.support.doctor import QWEN, make
from tests.support.fake_hub import serve_hub

GIB = 2**30
RTX = Gpu(0, "NVIDIA GeForce RTX 4090", "580.65", (8, 9), 24 * GIB, 23 * GIB)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that fakes another machine: what its drivers and torch's files report."""

    def look_like(*gpus: Gpu, hardware: Hardware | None = None, torch: tuple[str, str | None, str | None]) -> None:
        found = hardware or (Hardware(gpus[0].name, gpus[0].driver) if gpus else Hardware())
        monkeypatch.setattr(accelerator, "nvidia_gpus", lambda: list(gpus) or None)
        monkeypatch.setattr(accelerator, "torch_build", lambda: torch)
        monkeypatch.setattr(accelerator, "detect_hardware", lambda: found)
        monkeypatch.setattr(accelerator, "installed", lambda: True)

    return look_like


CUDA = ("2.13.0", "13.0", None)


@pytest.mark.parametrize(
    ("gpu", "torch", "settings", "status", "told"),
    [
        (RTX, CUDA, [], Status.OK, "compute capability 8.9"),
        (RTX, ("2.13.0+cpu", None, None), [], Status.FAILED, "was built without CUDA"),
        (replace(RTX, driver="550.54"), CUDA, [], Status.FAILED, "needs driver 580 or newer"),
        (replace(RTX, driver="550.54"), ("2.8.0", "12.8", None), [], Status.OK, "CUDA 12.8"),
        (replace(RTX, capability=(6, 1)), CUDA, [], Status.FAILED, "does not support a GPU this old"),
        (
            replace(RTX, capability=(6, 1)),
            ("2.8.0", "12.8", None),
            [],
            Status.FAILED,
            "does not support a GPU this old",
        ),
        (replace(RTX, capability=(6, 1)), ("2.13.0+cu126", "12.6", None), [], Status.OK, "CUDA 12.6"),
        (replace(RTX, capability=(7, 0)), ("2.10.0", "12.8", None), [], Status.OK, "CUDA 12.8"),
        (
            replace(RTX, capability=(7, 0)),
            ("2.11.0", "12.8", None),
            [],
            Status.FAILED,
            "does not support a GPU this old",
        ),
        (
            replace(RTX, capability=(12, 0)),
            ("2.8.0", "12.6", None),
            [],
            Status.FAILED,
            "does not support a GPU this new",
        ),
        (replace(RTX, capability=(7, 5)), CUDA, ["model.dtype=bfloat16"], Status.WARNING, "can only emulate bfloat16"),
        (RTX, CUDA, ["model.device=cuda:3"], Status.FAILED, "has 1 visible NVIDIA GPU"),
        (RTX, ("2.13.0+cpu", None, None), ["model.device=cpu"], Status.OK, "the profile uses the CPU"),
    ],
)
def test_a_gpu_is_checked_against_the_build_of_torch(
    machine: Any,
    *,
    gpu: Gpu,
    torch: tuple[str, str | None, str | None],
    settings: list[str],
    status: Status,
    told: str,
) -> None:
    machine(gpu, torch=torch)
    found = accelerator.device(make("default", *settings))
    assert (found.status, told in found.text) == (status, True), found.text
    assert (found.remedy is None) == (status is Status.OK)


@pytest.mark.parametrize(
    ("capability", "torch", "index"),
    [((6, 1), CUDA, "https://download.pytorch.org/whl/cu126"), ((12, 0), ("2.13.0+cu126", "12.6", None), None)],
)
def test_another_build_of_torch_is_installed_with_the_libraries_that_it_needs(
    machine: Any, capability: tuple[int, int], torch: Any, index: str | None
) -> None:
    machine(replace(RTX, capability=capability), torch=torch)
    words = shlex.split(accelerator.device(make("default")).remedy or "")
    place = words.index("install")
    more = [] if index is None else [f"--index-url={index}"]
    assert words[place + 1 :] == ["--force-reinstall", f"torch=={PINS['torch'][1]}", *more]


def test_missing_kernels_are_a_warning_unless_they_are_off(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(RTX, torch=CUDA)
    monkeypatch.setattr(accelerator, "installed", lambda: False)
    found = accelerator.device(make("default"))
    assert (found.status, "without liger-kernel" in found.text) == (Status.WARNING, True)
    assert "pip install" in str(found.remedy)
    assert accelerator.device(make("default", "model.fused_kernels=false")).status is Status.OK


@pytest.mark.parametrize(
    ("hardware", "torch", "device", "status", "told"),
    [
        (Hardware(), CUDA, "auto", Status.WARNING, "The profile default is for a GPU, so it is slow here"),
        (Hardware(amd=True), CUDA, "auto", Status.FAILED, "was built without ROCm"),
        (Hardware(amd=True), ("2.13.0", None, "7.0"), "cuda", Status.OK, "AMD GPU"),
        (Hardware(), CUDA, "cuda", Status.FAILED, "has 0 visible NVIDIA GPUs"),
        (Hardware(driverless=True), CUDA, "auto", Status.FAILED, "an NVIDIA GPU but no working driver"),
        (Hardware(), CUDA, "mps", Status.FAILED, "not a Mac with Apple silicon"),
        (Hardware(), CUDA, "xpu", Status.FAILED, "no Intel GPU was found"),
    ],
)
def test_machines_without_a_usable_nvidia_gpu_are_checked(
    machine: Any,
    *,
    monkeypatch: pytest.MonkeyPatch,
    hardware: Hardware,
    torch: Any,
    device: str,
    status: Status,
    told: str,
) -> None:
    machine(hardware=hardware, torch=torch)
    monkeypatch.setattr(accelerator, "intel_gpu", lambda: False)
    found = accelerator.device(make("default", f"model.device={device}"))
    assert (found.status, told in found.text) == (status, True), found.text


def test_apple_gpu_needs_a_recent_macos(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(hardware=Hardware(apple=True), torch=("2.13.0", None, None))
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert accelerator.device(make("mac")).status is Status.OK
    assert "in total" in accelerator.memory(make("mac")).text
    monkeypatch.setattr("platform.mac_ver", lambda: ("13.2", ("", "", ""), "arm64"))
    assert "macOS 14" in accelerator.device(make("mac")).text


def test_gpu_without_a_driver_is_detected(tmp_path: Path) -> None:
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x040300\n")
    assert pci_gpus(NVIDIA, tmp_path) == []
    (card / "class").write_text("0x030000\n")
    assert pci_gpus(NVIDIA, tmp_path) == ["0000:01:00.0"]
    node = tmp_path / "renderD128" / "device"
    node.mkdir(parents=True)
    (node / "vendor").write_text("0x8086\n")
    assert accelerator.intel_gpu(tmp_path)
    assert not accelerator.intel_gpu(tmp_path / "nowhere")


def test_processes_that_use_the_memory_are_listed(machine: Any) -> None:
    machine(replace(RTX, free=2 * GIB, users=("python (pid 17, 20.0 GiB)",)), torch=CUDA)
    found = accelerator.memory(make("default"))
    assert (found.status, "used by python (pid 17, 20.0 GiB)" in found.text) == (Status.WARNING, True)
    machine(RTX, torch=CUDA)
    assert accelerator.memory(make("default")).text == "23.0 GiB free of 24.0 GiB"
    assert accelerator.memory(make("cpu", environment={"CUDA_VISIBLE_DEVICES": ""})).status is Status.SKIPPED


def test_selected_gpu() -> None:
    gpus = [replace(RTX, index=number) for number in range(3)]
    assert accelerator.visible(gpus, "2,0") == [gpus[2], gpus[0]]
    assert accelerator.visible(gpus, "1,7,0") == [gpus[1]]
    assert accelerator.visible(gpus, "") == []
    assert accelerator.visible(gpus, "GPU-1234") == gpus
    assert accelerator.chosen(gpus, "cuda:1") == gpus[1]
    assert accelerator.chosen(gpus, "auto") == gpus[0]
    assert accelerator.chosen(gpus, "cuda:3") is None
    assert accelerator.chosen(gpus, "cpu") is None


def default(tmp_path: Path, *settings: str) -> Context:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return make("default", f"model.name={tmp_path}", *settings)


def test_memory_estimate_is_shown_with_its_components(machine: Any, tmp_path: Path) -> None:
    machine(replace(RTX, total=80 * GIB, free=79 * GIB), torch=CUDA)
    found = fit.memory(default(tmp_path))
    assert found.status is Status.OK
    for word in ("494 M parameters", "weights", "gradients", "optimizer", "logits", "activations"):
        assert word in found.text


def test_memory_short_only_for_long_prompts_is_a_warning(machine: Any, tmp_path: Path) -> None:
    fixed = ("train.micro_batch=4", "generation.batch=64")
    machine(replace(RTX, free=16 * GIB), torch=CUDA)
    assert fit.memory(default(tmp_path, *fixed)).status is Status.WARNING
    machine(replace(RTX, free=12 * GIB), torch=CUDA)
    assert fit.memory(default(tmp_path, *fixed)).status is Status.FAILED
    found = fit.memory(default(tmp_path))
    assert found.status is Status.OK
    assert re.search(r"with train.micro_batch = \d+ and generation.batch = \d+ and recomputed activations;", found.text)


@pytest.mark.parametrize(
    ("gib", "fixed"), [(1.0, False), (4.0, False), (7.5, False), (4.0, True), (10.0, True), (16.0, True)]
)
def test_suggested_settings_make_a_model_fit(machine: Any, tmp_path: Path, gib: float, fixed: bool) -> None:
    machine(replace(RTX, free=int(gib * GIB)), torch=CUDA)
    found = fit.memory(default(tmp_path, *(("train.micro_batch=4", "generation.batch=64") if fixed else ())))
    assert found.status in (Status.FAILED, Status.WARNING)
    if "it fits with" not in found.text:
        assert gib == 1.0
        return
    words = (found.remedy or "").split()
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    cured = fit.memory(make("default", *settings))
    assert cured.status is Status.OK, cured.text


def test_config_of_a_missing_model_is_read_from_the_hub(machine: Any, tmp_path: Path) -> None:
    machine(RTX, torch=CUDA)
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    with serve_hub({"me/model": tmp_path}) as address:
        context = make("default", "model.name=me/model", environment={"HF_ENDPOINT": address})
        assert "494 M parameters (on the hub)" in fit.memory(context).text
    assert fit.memory(make("default", "model.name=me/model")).status is Status.SKIPPED
    assert fit.memory(make("default", "model.name=me/model", offline=True)).status is Status.SKIPPED
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    found = fit.memory(make("default", f"model.name={tmp_path}"))
    assert (found.status, "of type mamba" in found.text) == (Status.SKIPPED, True)


def test_invalid_profiles_fail() -> None:
    assert fit.profile(make("demo")).status is Status.OK
    check = Check("fit", "profile", fit.profile)
    found = command.look(check, make("demo", "tasks=no_such_task"))
    assert (found.status, "no_such_task" in found.text) == (Status.FAILED, True)
    assert command.look(check, make("demo", "train.micro_batch=0")).status is Status.FAILED


@pytest.mark.slow
def test_deep_runs_a_real_training_step() -> None:
    found = accelerator.compute(make("demo", "train.micro_batch=4", "generation.max_completion_tokens=8", deep=True))
    assert found.status is Status.OK, found.text
    assert "matrix product correct; a training step of 4 rows" in found.text


@pytest.mark.slow
def test_impossible_training_step_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accelerator.compute(make("demo", "model.dtype=float16", deep=True))
    assert (found.status, "cannot train in float16 on a CPU" in found.text) == (Status.FAILED, True)
    monkeypatch.setattr(accelerator, "DEEP_SECONDS", 2.1)
    found = accelerator.compute(make("demo", deep=True))
    assert (found.status, "no training step finished within" in found.text) == (Status.UNKNOWN, True)


def test_each_process_needs_a_gpu_and_memory_is_that_of_the_fullest(machine: Any, tmp_path: Path) -> None:
    machine(replace(RTX, total=80 * GIB, free=79 * GIB), replace(RTX, index=1, free=9 * GIB), torch=CUDA)
    one, two, three = (default(tmp_path, f"train.processes={count}") for count in (1, 2, 3))
    assert accelerator.device(two).status is not Status.FAILED
    found = accelerator.device(three)
    assert found.status is Status.FAILED
    assert "train.processes is 3, but this machine has 2 visible NVIDIA GPUs" in found.text
    assert "train.processes=2" in (found.remedy or "")
    assert "78.2 GiB free on" in fit.memory(one).text
    text = fit.memory(two).text
    assert "in each of 2 processes" in text
    assert re.search(r"8\.2 GiB free on .* \(the fullest\)", text)


def test_a_model_too_large_for_each_of_two_gpus_fits_divided_among_them(machine: Any, tmp_path: Path) -> None:
    machine(replace(RTX, free=8 * GIB), replace(RTX, index=1, free=8 * GIB), torch=CUDA)
    found = fit.memory(default(tmp_path, "train.processes=2"))
    assert found.status in (Status.WARNING, Status.FAILED)
    assert "it fits with model.gradient_checkpointing = true, train.shard = true" in found.text
    assert "train.shard=true" in (found.remedy or "")
    assert fit.memory(default(tmp_path, "train.processes=2", "train.shard=true")).status is Status.OK
    assert "train.shard" not in fit.memory(default(tmp_path)).text
