"""The services that keys are for, as data. A key belongs to its row's host, and a row's host never changes.

Names of environment variables are those which each service's own documentation uses.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One service."""

    name: str
    base_url: str
    """What the API's paths are appended to; no slash at its end."""
    variables: tuple[str, ...] = ()
    """Environment variables that may hold its key; the first that is set counts."""
    needs_key: bool = True
    prefixes: tuple[str, ...] = ()
    """What its keys begin with. Empty: anything, or not known."""
    key_page: str | None = None
    """Where keys are made and revoked."""
    key_path: str = "/models"
    """A path that answers free of charge, and only to a valid key. (OpenRouter lists its models to everyone.)"""


def _remote(name: str, base_url: str, prefixes: tuple[str, ...], key_page: str, *more: str) -> Provider:
    return Provider(name, base_url, (f"{name.upper()}_API_KEY", *more), prefixes=prefixes, key_page=key_page)


def _local(name: str, port: int) -> Provider:
    return Provider(name, f"http://127.0.0.1:{port}/v1", needs_key=False)


_ROWS = (
    _remote("openai", "https://api.openai.com/v1", ("sk-",), "https://platform.openai.com/api-keys"),
    _remote("deepseek", "https://api.deepseek.com", ("sk-",), "https://platform.deepseek.com/api_keys"),
    Provider(
        "openrouter",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        prefixes=("sk-or-",),
        key_page="https://openrouter.ai/keys",
        key_path="/key",
    ),
    _remote("groq", "https://api.groq.com/openai/v1", ("gsk_",), "https://console.groq.com/keys"),
    _remote("together", "https://api.together.xyz/v1", (), "https://api.together.xyz/settings/api-keys"),
    _remote("mistral", "https://api.mistral.ai/v1", (), "https://console.mistral.ai/api-keys"),
    _remote(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("AIza",),
        "https://aistudio.google.com/apikey",
        "GOOGLE_API_KEY",
    ),
    _remote("xai", "https://api.x.ai/v1", ("xai-",), "https://console.x.ai"),
    _remote("fireworks", "https://api.fireworks.ai/inference/v1", ("fw_",), "https://app.fireworks.ai/settings"),
    _remote("cerebras", "https://api.cerebras.ai/v1", ("csk-",), "https://cloud.cerebras.ai"),
    Provider(
        "huggingface",
        "https://huggingface.co",
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        prefixes=("hf_",),
        key_page="https://huggingface.co/settings/tokens",
        key_path="/api/whoami-v2",
    ),
    Provider(
        "wandb",
        "https://api.wandb.ai",
        ("WANDB_API_KEY",),
        key_page="https://wandb.ai/authorize",
        key_path="/graphql",
    ),
    _local("vllm", 8000),
    _local("sglang", 30000),
    _local("llamacpp", 8080),
    _local("ollama", 11434),
    _local("lmstudio", 1234),
    _local("transformers", 8000),
    _local("litellm", 4000),
)

PROVIDERS = {row.name: row for row in _ROWS}
KEY_VARIABLES = frozenset(variable for row in _ROWS for variable in row.variables)
