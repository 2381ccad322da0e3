"""What ``--offload`` names: a provider or an address, and its model."""

from __future__ import annotations

import pytest

from hivemind_exp.config import Config
from swarmctl.errors import UsageError
from swarmctl.settings.offload_target import is_address, offload_flags, provider_name, split_target, typed_address


@pytest.mark.parametrize(
    ("text", "target", "model"),
    [
        ("openai", "openai", ""),
        ("ollama:llama3:8b", "ollama", "llama3:8b"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1", ""),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", ""),
        ("http://localhost:8000/v1:org/model:8b", "http://localhost:8000/v1", "org/model:8b"),
        ("http://localhost:8000:qwen", "http://localhost:8000", "qwen"),
        ("http://box:qwen", "http://box", "qwen"),
        ("https://[::1]:8000/v1:qwen", "https://[::1]:8000/v1", "qwen"),
        ("HTTP://box/v1", "HTTP://box/v1", ""),
    ],
)
def test_a_model_follows_the_target(text: str, target: str, model: str) -> None:
    assert split_target(text) == (target, model)
    assert is_address(target) is ("://" in target)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://localhost:8000/v1", "localhost-8000"),
        ("http://127.0.0.1:8000/v1", "localhost-8000"),
        ("http://192.168.1.20:8000/v1", "host-192-168-1-20-8000"),
        ("https://llm.example.org/v1", "llm-example-org"),
        ("https://vllm/v1", "host-vllm"),
        ("https://api.openai.com/v1", "openai"),
        ("https://a-very-long-name-of-a-host.example.org", "a-very-long-name-of-a-host-examp"),
    ],
)
def test_a_server_always_has_the_same_valid_name(url: str, name: str) -> None:
    assert provider_name(url) == name
    if name != "openai":
        Config.model_validate({"providers": {name: {"base_url": url}}})


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@box/v1",
        "http://box/v1?key=x",
        "http://box:99999/v1",
        "http://127.1:1/v1",
        "http://2130706433/v1",
    ],
)
def test_an_invalid_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match="invalid server URL") as caught:
        offload_flags(url)
    assert "secret" not in f"{caught.value.message} {caught.value.next}"


def test_flags_reset_the_model_unless_an_assignment_gives_one() -> None:
    assert offload_flags(None) == []
    assert offload_flags("off") == [("--offload", "offload.provider", "off"), ("--offload", "offload.model", "")]
    assert offload_flags("openai", ["offload.model=x"]) == [("--offload", "offload.provider", "openai")]
    flags = offload_flags("http://box:1/v1:m")
    assert flags == [
        ("--offload", "offload.provider", "box-1"),
        ("--offload", "providers.box-1.base_url", "http://box:1/v1"),
        ("--offload", "offload.model", "m"),
    ]
    assert typed_address(flags) == ("box-1", "http://box:1/v1")
    assert typed_address(offload_flags("https://api.openai.com/v1")) is None
