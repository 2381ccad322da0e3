"""Which GPU the node's own server gets."""

from __future__ import annotations

from typing import Any

import pytest

from hivemind_exp.config import Config
from swarmctl.serving.gpus import gpu_for_server, place_server


@pytest.mark.parametrize(
    ("count", "visible", "settings", "expected"),
    [
        (0, None, {}, (None, False)),
        (1, None, {}, ("0", True)),
        (2, None, {}, ("1", False)),
        (4, None, {"train": {"processes": 3}}, ("3", False)),
        (2, None, {"train": {"processes": 2}}, ("1", True)),
        (2, None, {"model": {"device": "cuda:1"}}, ("1", True)),
        (2, None, {"model": {"device": "cpu"}}, ("1", False)),
        (4, "2,3", {}, ("3", False)),
        (4, "2", {}, ("2", True)),
        (4, "", {}, (None, False)),
        (4, None, {"offload": {"serving": {"gpu": 0}}}, ("0", True)),
        (4, None, {"offload": {"serving": {"gpu": 2}}}, ("2", False)),
    ],
)
def test_the_server_gets_the_last_gpu_that_the_node_does_not_use(
    count: int, visible: str | None, settings: dict[str, Any], expected: tuple[str | None, bool]
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpu_for_server(Config.model_validate(settings), environment, count) == expected


@pytest.mark.parametrize(
    ("count", "settings", "turns", "memory", "why"),
    [
        (1, {}, True, 0.6, "neither needs the memory while the other works"),
        (2, {}, False, None, ""),
        (0, {}, False, None, ""),
        (2, {"train": {"processes": 2}}, False, 0.45, "train.processes = 2"),
        (1, {"offload": {"ahead": 2}}, False, 0.45, "offload.ahead = 2"),
        (1, {"offload": {"ahead": 0}}, True, 0.6, "neither"),
        (1, {"offload": {"serving": {"turns": "off"}}}, False, 0.45, "offload.serving.turns = off"),
        (1, {"offload": {"serving": {"turns": "on"}}}, True, 0.6, "offload.serving.turns = on"),
        (2, {"offload": {"serving": {"turns": "on"}}}, True, None, "offload.serving.turns = on"),
    ],
)
def test_the_server_and_the_node_take_turns_on_one_gpu(
    count: int, settings: dict[str, Any], turns: bool, memory: float | None, why: str
) -> None:
    found = place_server(Config.model_validate(settings), {}, count)
    assert (found.turns, found.memory) == (turns, memory)
    assert why in found.why
