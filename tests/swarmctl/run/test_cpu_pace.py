"""The time that a round may take on a CPU, as ``run --dry-run`` shows it."""

from __future__ import annotations

from typing import Any

import pytest

from swarmctl.run.cpu_pace import cpu_pace
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import override, resolve

QWEN = 494_032_768
ADVICE = ". For a machine without a GPU: --profile cpu"


@pytest.mark.parametrize(
    ("profile", "parameters", "expected"),
    [
        (
            "gpu",
            QWEN,
            f"no GPU: a round of 128 completions of up to 512 tokens takes up to 51 minutes on two cores "
            f"(estimate){ADVICE}",
        ),
        ("gpu", None, f"no GPU: a round of 128 completions of up to 512 tokens may take an hour or more{ADVICE}"),
        (
            "smol",
            None,
            "no GPU: a round of 256 completions of up to 32 tokens takes up to 100 seconds on two cores (estimate)",
        ),
        ("cpu", QWEN, None),
        ("cpu", None, None),
        ("demo", 232_000, None),
    ],
)
def test_it_follows_from_the_model_and_the_round(profile: str, parameters: int | None, expected: str | None) -> None:
    found: dict[str, Any] = {"device": "cpu", "model": {"parameters": parameters}}
    config = resolve(profiles.read(profiles.find(profile)), [], {}).config
    assert cpu_pace(config, found, profile) == expected
    assert cpu_pace(config, found | {"device": "cuda"}, profile) is None


def test_it_is_not_the_time_of_an_api_that_generates_everything() -> None:
    profile = profiles.read(profiles.find("gpu"))
    found: dict[str, Any] = {"device": "cpu", "model": {"parameters": QWEN}}
    assert cpu_pace(resolve(profile, [override("offload.provider=openai")], {}).config, found, "gpu") is None
    half = [override("offload.provider=openai"), override("offload.share=0.5")]
    assert cpu_pace(resolve(profile, half, {}).config, found, "gpu") is not None
