"""Whether the node's own server fits onto its GPU, on machines as their drivers report them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.models.hardware import Hardware
from hivemind_exp.models.memory import Shape
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor.check import Context, Finding, Status
from swarmctl.doctor.checks import accelerator, fit, server_fit
from swarmctl.doctor.registry import select
from swarmctl.serving import sglang
from swarmctl.serving.gpus import Place
from swarmctl.serving.memory import ASLEEP, memory_share, server_memory, with_share
from tests.support.doctor import QWEN, make

GIB = 2**30
LARGE = QWEN | {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
SERVED = ("offload.serving.command=vllm", "offload.provider=vllm", "offload.kind=policy", "model.lora.rank=16")
ALONE = Place(None, shared=False, turns=False, why="")


def config(**offload: object) -> Config:
    return Config.model_validate({"model": {"lora": {"rank": 9}}, "offload": {"kind": "policy"} | offload})


def served(arguments: list[str]) -> Config:
    serving = {"command": "sglang", "arguments": arguments}
    offload = {"kind": "policy", "provider": "sglang", "serving": serving}
    return Config.model_validate({"model": {"name": "org/small", "lora": {"rank": 9}}, "offload": offload})


Look = Callable[..., Context]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Return a function that fakes a machine's GPUs, by (total, free) in GiB, and returns a profile's context on it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerator, "detect_hardware", lambda: Hardware("GPU", "580.65"))

    def look_like(*gpus: tuple[float, float], settings: tuple[str, ...] = (), model: object = QWEN) -> Context:
        found = [
            Gpu(index, "NVIDIA GPU", "580.65", (9, 0), int(total * GIB), int(free * GIB))
            for index, (total, free) in enumerate(gpus)
        ]
        monkeypatch.setattr(accelerator, "nvidia_gpus", lambda: found or None)
        (tmp_path / "config.json").write_text(json.dumps(model))
        return make("default", f"model.name={tmp_path}", *SERVED, *settings)

    return look_like


def again(context: Context, found: Finding) -> Context:
    """Return the context with the settings that a finding suggests."""
    words = shlex.split(found.remedy or "")
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    return make("default", *settings)


def test_the_estimate_counts_what_the_node_asks_for() -> None:
    shape = Shape.read(QWEN)
    assert shape is not None
    found = server_memory(config(), shape, ALONE)
    token = 24 * 2 * 2 * 64 * 2
    game, generation = config().game, config().generation
    asked, completed = generation.max_prompt_tokens, generation.max_completion_tokens
    assert found.weights == shape.parameters * 2
    assert found.cache == game.groups * (asked + game.group_size * completed) * token
    assert found.shortest_cache == (asked + completed) * token
    assert found.least < found.total
    in_turn = server_memory(config(), shape, Place("0", shared=True, turns=True, why=""))
    assert in_turn.adapters * 2 == found.adapters, "none is kept for a round ahead"
    fewer = server_memory(config(limits={"concurrency": 1}), shape, ALONE)
    assert fewer.cache * game.groups == found.cache


@pytest.mark.parametrize(
    ("arguments", "share", "changed"),
    [
        ([], 0.9, ["--gpu-memory-utilization=0.5"]),
        (["--gpu-memory-utilization=0.3"], 0.3, ["--gpu-memory-utilization=0.5"]),
        (["--gpu_memory_utilization", "0.4", "-v"], 0.4, ["-v", "--gpu-memory-utilization=0.5"]),
        (["--gpu-memory-utilization=0.3", "--gpu-memory-utilization=0.2"], 0.2, ["--gpu-memory-utilization=0.5"]),
        (["--gpu-memory-utilization"], 0.9, ["--gpu-memory-utilization=0.5"]),
    ],
)
def test_the_users_share_wins(arguments: list[str], share: float, changed: list[str]) -> None:
    made = config(serving={"arguments": arguments})
    assert memory_share(made, ALONE) == share
    assert with_share(made, 0.5) == changed


@pytest.mark.parametrize(
    ("arguments", "share", "changed"),
    [
        ([], 0.9, ["--mem-fraction-static=0.4"]),
        (["--mem-fraction-static=0.3"], 0.4, ["--mem-fraction-static=0.4"]),
        (["--gpu-memory-utilization=0.3"], 0.9, ["--gpu-memory-utilization=0.3", "--mem-fraction-static=0.4"]),
    ],
)
def test_sglangs_flag_leaves_out_what_it_needs_besides(arguments: list[str], share: float, changed: list[str]) -> None:
    made = served(arguments)
    assert memory_share(made, ALONE) == pytest.approx(share)
    assert with_share(made, 0.5) == changed
    words = sglang.arguments(served([]), 1, ALONE)
    assert words[words.index("--mem-fraction-static") + 1] == "0.8", "what is predicted is what is asked for"


def test_a_share_that_is_too_small_for_sglang(machine: Look) -> None:
    wide = ("game.groups=64", "game.group_size=16")
    given = (*wide, "offload.provider=sglang", 'offload.serving.arguments=["--mem-fraction-static=0.02"]')
    found = server_fit.memory(machine((24, 23.5), (24, 23.5), settings=given))
    assert (found.status, "It would not start; give it more" in found.text) == (Status.FAILED, True), found.text
    assert "--mem-fraction-static=" in (found.remedy or "")
    assert server_fit.memory(again(machine((24, 23.5), (24, 23.5)), found)).status is Status.OK


def test_profiles_without_a_server_have_no_such_check() -> None:
    assert not [check for check in select(["fit"], make("default")) if check.name == "server"]
    assert [check for check in select(["fit"], make("default", *SERVED)) if check.name == "server"]


def test_a_gpu_of_its_own_that_is_large_enough(machine: Look) -> None:
    found = server_fit.memory(machine((24, 23.5), (24, 23.5)))
    assert found.status is Status.OK
    assert "21.6 GiB of GPU 1 (90% of its memory); 23.5 GiB is free there" in found.text


def test_another_program_on_the_gpu_leaves_less(machine: Look) -> None:
    found = server_fit.memory(machine((24, 23.5), (24, 12)))
    assert (found.status, "It would not start; give it less" in found.text) == (Status.FAILED, True)
    cured = server_fit.memory(again(machine((24, 23.5), (24, 12)), found))
    assert cured.status is Status.OK, cured.text


@pytest.mark.parametrize(
    ("share", "status", "words"),
    [
        ("0.1", Status.FAILED, "It would not start; give it more"),
        ("0.2", Status.WARNING, "Some completions will wait for others; give it more"),
    ],
)
def test_a_share_that_is_too_small(machine: Look, share: str, status: Status, words: str) -> None:
    wide = ("game.groups=64", "game.group_size=16")
    given = (*wide, f'offload.serving.arguments=["--gpu-memory-utilization={share}"]')
    found = server_fit.memory(machine((24, 23.5), (24, 23.5), settings=given))
    assert (found.status, words in found.text) == (status, True), found.text
    assert server_fit.memory(again(machine((24, 23.5), (24, 23.5)), found)).status is Status.OK


def test_on_one_gpu_what_the_node_keeps_is_counted(machine: Look) -> None:
    in_turn = machine((24, 23.5))
    found = server_fit.memory(in_turn)
    assert found.status is Status.OK, found.text
    assert "14.4 GiB of GPU 0 (60% of its memory)" in found.text
    assert "that the node needs" in found.text
    large = server_fit.memory(machine((24, 23.5), model=LARGE))
    assert (large.status, "let this machine generate" in large.text) == (Status.FAILED, True)
    alone = again(machine((24, 23.5), model=LARGE), large)
    assert (alone.problem, alone.config.offload.provider, server_fit.applies(alone)) == (None, "off", False)


def test_what_fits_only_in_turn_is_told_to_take_turns(machine: Look) -> None:
    off = ("offload.serving.turns=off", "train.micro_batch=16", "generation.batch=64")
    found = server_fit.memory(machine((16, 15.5), settings=off))
    assert (found.status, "let them take turns" in found.text) == (Status.FAILED, True), found.text
    assert server_fit.memory(again(machine((16, 15.5)), found)).status is Status.OK


def test_the_nodes_own_estimate_knows_that_a_sleeping_server_gives_memory_back(machine: Look) -> None:
    def room(*settings: str) -> int:
        free, where = fit._room(machine((24, 23), settings=settings), Shape.read(QWEN), "cuda")
        assert free is not None
        assert "beside the server" in where
        return free

    alone, _ = fit._room(machine((24, 23), (24, 23)), Shape.read(QWEN), "cuda")
    assert alone == int(23 * GIB) - fit.RUNTIME
    assert room() == alone - ASLEEP
    assert room("offload.serving.turns=off") == alone - int(0.45 * 24 * GIB)


def test_without_a_gpu_the_estimate_is_only_shown(machine: Look) -> None:
    found = server_fit.memory(machine())
    assert (found.status, "there is no NVIDIA GPU" in found.text) == (Status.SKIPPED, True)
    unknown = server_fit.memory(machine((24, 23.5), model={"model_type": "mamba"}))
    assert (unknown.status, "of type mamba" in unknown.text) == (Status.SKIPPED, True)
