"""A test server as the API, and a directory that looks like a model's."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind_exp.providers import PROVIDERS
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.init_dialogue import (
    KEY,
)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """Stands in for openai, with its default model."""
    chat = PROVIDERS["openai"].chat
    assert chat is not None
    with api_server(keys={KEY}, models=(str(chat.model),)) as server:
        yield server


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory that looks like a model's."""
    path = tmp_path / "Small Model"
    path.mkdir()
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 99}
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "intermediate_size": 8, **sizes}))
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return path
