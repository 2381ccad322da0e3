"""Where a node trains is said as the user chose it."""

from __future__ import annotations

from typing import Any

import pytest

from swarmctl.terminal.devices import devices
from swarmctl.terminal.sentences import start

START = {"event": "start", "model": "m", "dtype": "bfloat16", "parameters": 494_000_000, "trainable": 494_000_000}


@pytest.mark.parametrize(
    ("about", "words", "by_name"),
    [
        ({"device": "cpu"}, "cpu", "cpu"),
        ({"device": "cpu", "processes": 2}, "cpu, in 2 processes", "cpu, in 2 processes"),
        ({"device": "cuda:1", "processes": 1, "accelerator": "NVIDIA H200"}, "cuda:1", "NVIDIA H200"),
        ({"device": "cuda", "processes": 2, "accelerator": "NVIDIA H200"}, "2 GPUs", "2 GPUs"),
        ({"device": None}, None, None),
    ],
)
def test_the_place_is_a_device_or_the_number_of_gpus(
    about: dict[str, Any], words: str | None, by_name: str | None
) -> None:
    assert (devices(about), devices(about, by_name=True)) == (words, by_name)


def test_the_start_line_names_the_chosen_gpu_or_their_number() -> None:
    assert start(START | {"device": "cuda:1"}) == "Training all 494 M parameters on cuda:1 (bfloat16)."
    assert start(START | {"device": "cuda", "processes": 2}) == "Training all 494 M parameters on 2 GPUs (bfloat16)."
