"""The checks count what a node keeps of the weights it pushes, on machines with memory and disks of a test's choice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from hivemind_exp.models.hardware import Hardware
from hivemind_exp.models.memory import Shape, checkpoint_bytes
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor.check import Context, Finding, Status
from swarmctl.doctor.checks import accelerator, fit, machine, server_fit
from swarmctl.terminal.sentences import size
from tests.support.doctor import QWEN, make
from tests.support.full_disk import mounted_disk

GIB = 2**30
SHAPE = Shape.read(QWEN)
assert SHAPE is not None
WEIGHTS = 4 * SHAPE.parameters
"""Bytes of one copy."""
SERVED = ("offload.provider=vllm", "offload.kind=policy")
CPU = ("model.device=cpu", "train.micro_batch=1", "generation.batch=1")
Look = Callable[..., Context]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Return what fakes a machine's memory and GPUs, in GiB, and returns a profile's context on it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerator, "detect_hardware", lambda: Hardware("GPU", "580.65"))
    monkeypatch.setattr(machine, "container_memory", lambda: (None, 0))
    monkeypatch.setattr(fit, "container_memory", lambda: (None, 0))
    (tmp_path / "config.json").write_text(json.dumps(QWEN))

    def look_like(total: float, *settings: str, gpus: int = 0, nodes: Path = tmp_path) -> Context:
        memory = SimpleNamespace(total=int(total * GIB), available=int(total * GIB))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        found = [Gpu(each, "NVIDIA GPU", "580.65", (9, 0), 80 * GIB, 79 * GIB) for each in range(gpus)]
        monkeypatch.setattr(accelerator, "nvidia_gpus", lambda: found or None)
        return make("default", f"model.name={tmp_path}", *SERVED, *settings, nodes=nodes)

    return look_like


def again(found: Finding) -> Context:
    """Return the context with the settings that a finding suggests."""
    words = shlex.split(found.remedy or "")
    return make("default", *(words[place + 1] for place, word in enumerate(words) if word == "--set"))


@pytest.mark.parametrize(
    ("settings", "versions"),
    [((), 5), (("offload.ahead=0",), 4), (("offload.ahead=3",), 7), (("offload.serving.turns=on",), 4)],
)
def test_each_version_that_the_lag_keeps_is_counted(look: Look, settings: tuple[str, ...], versions: int) -> None:
    copies = f"{size(versions * WEIGHTS)} for {versions} copies of the weights that are pushed"
    on_gpu = machine.memory(look(64, *settings, gpus=2))
    assert copies in on_gpu.text
    assert f"a run needs about {size(versions * WEIGHTS + machine.LIBRARIES)}" in on_gpu.text
    assert on_gpu.status is Status.OK
    on_cpu = machine.memory(look(64, *settings, *CPU))
    assert copies in on_cpu.text
    without = machine.memory(look(64, "offload.provider=off", *CPU))
    assert "copies" not in without.text


def test_fit_has_the_same_figures_on_a_cpu(look: Look) -> None:
    free, where = fit._room(look(64, *CPU), SHAPE, "cpu")
    assert free == 64 * GIB - machine.LIBRARIES - 5 * WEIGHTS
    assert "memory minus 9.2 GiB for 5 copies of the weights that are pushed, and 3.0 GiB for PyTorch" in where
    adapters, _ = fit._room(look(64, "model.lora.rank=16", *CPU), SHAPE, "cpu")
    assert adapters == 64 * GIB - machine.LIBRARIES


@pytest.mark.parametrize("check", [machine.memory, fit.memory])
def test_copies_that_do_not_fit_are_avoided_with_adapters(look: Look, check: Callable[[Context], Finding]) -> None:
    found = check(look(16, *CPU))
    assert (found.status, "5 copies" in found.text) == (Status.FAILED, True), found.text
    cured = again(found)
    assert cured.config.model.lora is not None
    assert check(cured).status is Status.OK


def test_what_makes_a_node_fit_on_a_cpu_is_named(look: Look) -> None:
    """There, nothing is chosen for batches that are "auto"."""
    context = look(20, "offload.provider=off", "model.device=cpu")
    found = fit.memory(context)
    assert (found.status, "it fits with train.micro_batch = 2" in found.text) == (Status.WARNING, True), found.text
    assert fit.memory(again(found)).status is Status.OK


def test_a_server_that_sleeps_keeps_its_weights_in_the_computers_memory(look: Look) -> None:
    found = server_fit.memory(look(64, "offload.serving.command=vllm", gpus=1))
    assert found.status is Status.OK, found.text
    asleep = f"{size(WEIGHTS // 2)} for the weights of the server while it sleeps"
    assert f"must hold {size(4 * WEIGHTS)} for 4 copies of the weights that are pushed and {asleep}" in found.text
    adapters = server_fit.memory(look(64, "offload.serving.command=vllm", "model.lora.rank=16", gpus=1))
    assert f"must hold {asleep}" in adapters.text
    apart = server_fit.memory(look(64, "offload.serving.command=vllm", "model.lora.rank=16", gpus=2))
    assert "must hold" not in apart.text, "it never sleeps"


def test_the_servers_check_fails_if_the_copies_do_not_fit(look: Look) -> None:
    found = server_fit.memory(look(8, "offload.serving.command=vllm", gpus=2))
    assert (found.status, "which is too small: " in found.text) == (Status.FAILED, True), found.text
    cured = again(found)
    assert cured.config.model.lora is not None
    assert server_fit.memory(cured).status is Status.OK


def test_files_with_pushed_weights_are_counted_on_their_disk(look: Look, tmp_path: Path) -> None:
    files = f"and the files with pushed weights {size(2 * WEIGHTS)}"
    same = machine.disk(look(64))
    assert files in same.text
    whole = 4 * checkpoint_bytes(look(64).config, SHAPE)
    with mounted_disk(tmp_path, str(WEIGHTS)) as small:
        found = machine.disk(look(64, f"offload.serving.folder={small}/served"))
        assert (found.status, f"free for {small}/served; " in found.text) == (Status.FAILED, True), found.text
        assert files in found.text
    (tmp_path / "1").mkdir()
    with mounted_disk(tmp_path / "1", str(whole + WEIGHTS)) as nodes:
        found = machine.disk(look(64, nodes=nodes))
        assert found.status is Status.FAILED, "the checkpoints alone would fit"
        assert machine.disk(look(64, "offload.provider=off", nodes=nodes)).status is Status.OK
        elsewhere = machine.disk(look(64, f"offload.serving.folder={tmp_path}", nodes=nodes))
        assert (elsewhere.status, files in elsewhere.text) == (Status.OK, True), elsewhere.text


def test_adapters_take_the_files_of_those_that_the_server_keeps_and_one_more(look: Look) -> None:
    found = machine.disk(look(64, "model.lora.rank=16", "offload.ahead=1"))
    three = 3 * checkpoint_bytes(look(64, "model.lora.rank=16").config, SHAPE) // 3
    assert f"the files with pushed weights {size(three)}" in found.text
