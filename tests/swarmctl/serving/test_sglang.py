"""How SGLang is started for a node."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.api.sglang import MODULES
from hivemind_exp.serving_settings import InferenceEngineName
from swarmctl.serving import sglang
from swarmctl.serving.gpus import Place
from swarmctl.serving.registry import SERVER_ENGINES, server_engine
from swarmctl.settings.offload_target import served_engine

RANK: dict[str, Any] = {"rank": 12}
ALONE = Place(None, shared=False, turns=False, why="")
TOGETHER = Place("0", shared=True, turns=False, why="offload.ahead = 1")
IN_TURN = Place("0", shared=True, turns=True, why="one GPU")


def config(
    command: str = "sglang",
    arguments: tuple[str, ...] = (),
    model: str = "org/small",
    lora: dict[str, Any] | None = RANK,
    **more: Any,
) -> Config:
    serving = {"command": command, "arguments": list(arguments)}
    offload = {"provider": "sglang", "kind": "policy", "serving": serving}
    return Config.model_validate({"model": {"name": model, "lora": lora and lora | more}, "offload": offload})


def value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_every_engine_can_be_started_by_the_node() -> None:
    assert set(SERVER_ENGINES) == set(get_args(InferenceEngineName))
    assert server_engine(config()) is sglang.ENGINE


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("vllm", "vllm"),
        ("/opt/sglang/bin/vllm", "vllm"),
        ("sglang", "sglang"),
        ("/opt/x/bin/sglang", "sglang"),
        ("/opt/x/bin/python -m sglang.launch_server", "sglang"),
        ("'/opt/with space/sglang' serve", "sglang"),
        ("my-server", "vllm"),
        ("'", "vllm"),
        ("", "vllm"),
    ],
)
def test_the_program_decides_on_the_engine(command: str, engine: str) -> None:
    assert served_engine(command) == engine


def test_the_subcommand_is_only_given_to_the_program_that_needs_it() -> None:
    assert sglang.arguments(config(), 1, ALONE)[0] == "serve"
    module = sglang.arguments(config("python3 -m sglang.launch_server"), 1, ALONE)
    assert module[0] == "--enable-lora"


def test_adapters_of_the_nodes_shape_are_taken() -> None:
    words = sglang.arguments(config(), 1, ALONE)
    assert value(words, "--max-lora-rank") == "12"
    place = words.index("--lora-target-modules")
    assert words[place + 1 : place + 1 + len(MODULES)] == list(MODULES)
    words = sglang.arguments(config(targets="q_proj, v_proj"), 1, ALONE)
    place = words.index("--lora-target-modules")
    assert words[place + 1 : place + 4] == ["q_proj", "v_proj", "--model-path"]


@pytest.mark.parametrize(("place", "share"), [(ALONE, "0.8"), (TOGETHER, "0.35"), (IN_TURN, "0.5")])
def test_a_shared_gpu_is_not_filled_by_the_server(place: Place, share: str) -> None:
    assert value(sglang.arguments(config(), 1, place), "--mem-fraction-static") == share


def test_a_server_that_takes_turns_keeps_its_weights() -> None:
    flags = {"--enable-memory-saver", "--enable-weights-cpu-backup"}
    assert flags <= set(sglang.arguments(config(), 1, IN_TURN))
    assert flags.isdisjoint(sglang.arguments(config(), 1, TOGETHER))
    expandable = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert expandable.items().isdisjoint(sglang.environment(expandable, IN_TURN).items())
    assert expandable.items() <= sglang.environment(expandable, TOGETHER).items()


@pytest.mark.parametrize("place", [ALONE, IN_TURN])
def test_the_server_is_never_open_to_other_machines(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="can replace its weights") as caught:
        sglang.arguments(config(arguments=("--host", "0.0.0.0")), 1, place)
    assert caught.value.next == "swarmctl run --set offload.serving.arguments=[]"
    assert sglang.arguments(config(arguments=("--host=::1",)), 1, place)[-1] == "--host=::1"


def test_its_environment_has_no_keys_and_returns_log_probabilities_as_sampled() -> None:
    before = {"PATH": "/bin", "PYTHONPATH": "/ours", "HF_TOKEN": "hf_x", "SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    found = sglang.environment(before, Place("3", shared=False, turns=False, why=""))
    assert {"PYTHONPATH", "HF_TOKEN", "SGLANG_RETURN_ORIGINAL_LOGPROB"}.isdisjoint(found)
    assert (found["CUDA_VISIBLE_DEVICES"], found["PATH"]) == ("3", "/bin")


def test_a_node_that_trains_all_weights_needs_no_adapters() -> None:
    whole = config(lora=None)
    words = sglang.arguments(whole, 1, ALONE)
    assert not [word for word in words if "lora" in word]
    with pytest.raises(ConfigurationError, match="can replace its weights"):
        sglang.arguments(config(lora=None, arguments=("--host=::",)), 1, ALONE)


def test_the_demos_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SGLang cannot serve") as caught:
        sglang.arguments(config(model="tiny"), 1, ALONE)
    assert caught.value.next == "swarmctl run --model smollm2 --serve sglang"
