"""Table of services that have API keys or generate. An API key belongs to its row's host, which never changes.

All differences between OpenAI-compatible services are in this table; to add a service, add a row. The names of
environment variables, addresses and parameters are from each service's documentation. Models change faster than this
file: ``offload.model`` overrides ``model``, ``checked`` is the date on which a row was last compared with the
service's documentation, and a run asks the service itself before it spends anything.
"""

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

Group = Literal["n", "fan_out"]
"""How to request a group: one request for several choices (``n``), or one request per completion (``fan_out``)."""
Training = Literal["allowed", "restricted", "model", "unknown"]
"""Whether a service's terms allow training on its output. ``model``: the model's license decides."""

_MODELS = "/models"


@dataclass(frozen=True, slots=True)
class Chat:
    """How to request chat completions from a service."""

    model: str | None = None
    """Default model, if the profile names none; None for servers without one."""
    checked: date | None = None
    """When the row was last compared with the service's documentation. None for servers without a default model."""
    group: Group = "fan_out"
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the parameter that limits a completion."""
    extras: frozenset[str] = frozenset()
    """Additional parameters that it is known to accept: "seed"."""
    reasoning: tuple[str, ...] = ()
    """Name prefixes of its models with hidden reasoning, which need extra tokens to reason. Only estimates use
    them: a node finds out from the answers whether a model reasons."""
    bounds_reasoning: bool = True
    """Whether the limit on a completion also limits hidden reasoning. If not, a cap can only be enforced without
    reasoning."""
    counts_maximum: bool = False
    """Whether its rate limit counts the tokens that a request may use, not those that it did use."""
    prices: str | None = None
    """Its name in genai-prices. None: it is free, or the profile gives the price."""
    free: bool = False
    """Whether it runs on the operator's own machines, free of charge."""
    batch: bool = False
    """Whether it has OpenAI's Batch API."""
    batch_share: float = 0.5
    """Price of a token in a batch, as a fraction of its normal price."""
    flex_share: float | None = None
    """Price of a token with ``service_tier = "flex"``, as a fraction of its normal price; None: it has no such tier."""
    unbilled_errors: frozenset[int] = frozenset()
    """HTTP statuses of errors for which, as its documentation says, it charges nothing even if it did some work."""
    training: Training = "unknown"
    serves_own_weights: bool = False
    """Whether it can serve this node's weights."""
    scores_tokens: bool = False
    """Whether its completions API returns the log-probabilities of a prompt that is given as token ids, as far as its
    documentation says. A node finds out before its first round."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One service."""

    name: str
    base_url: str
    """The address to which the API's paths are appended, without a trailing slash."""
    variables: tuple[str, ...] = ()
    """Environment variables that may hold its API key; the first one that is set is used."""
    needs_key: bool = True
    prefixes: tuple[str, ...] = ()
    """Prefixes of its API keys. Empty: none, or unknown."""
    key_page: str | None = None
    """Web page for creating and revoking API keys."""
    key_path: str = _MODELS
    """A path that costs nothing and needs a valid API key. (OpenRouter shows ``/models`` to everyone.)"""
    chat: Chat | None = None
    """How to request completions; None for services that don't generate."""


def _remote(
    name: str,
    base_url: str,
    prefixes: tuple[str, ...],
    key_page: str,
    chat: Chat,
    *more: str,
    key_path: str = "/models",
) -> Provider:
    variables = (f"{name.upper()}_API_KEY", *more)
    chat = replace(chat, prices=chat.prices or name)
    return Provider(name, base_url, variables, prefixes=prefixes, key_page=key_page, key_path=key_path, chat=chat)


def _local(
    name: str, port: int, *, group: Group = "fan_out", extras: frozenset[str] = frozenset(), scores_tokens: bool = False
) -> Provider:
    chat = Chat(
        group=group,
        extras=extras,
        free=True,
        training="model",
        serves_own_weights=True,
        scores_tokens=scores_tokens,
    )
    return Provider(name, f"http://127.0.0.1:{port}/v1", needs_key=False, chat=chat)


_SEED = frozenset({"seed"})

_ROWS = (
    _remote(
        "openai",
        "https://api.openai.com/v1",
        ("sk-",),
        "https://platform.openai.com/api-keys",
        Chat(
            model="gpt-6-luna",
            checked=date(2026, 11, 28),
            group="n",
            max_tokens="max_completion_tokens",
            extras=_SEED,
            reasoning=("o1", "o3", "o4", "gpt-5", "gpt-6"),
            counts_maximum=True,
            batch=True,
            flex_share=0.5,
            training="restricted",
        ),
    ),
    _remote(
        "deepseek",
        "https://api.deepseek.com",
        ("sk-",),
        "https://platform.deepseek.com/api_keys",
        Chat(model="deepseek-flash", checked=date(2026, 11, 28), reasoning=("deepseek-",), training="allowed"),
    ),
    _remote(
        "openrouter",
        "https://openrouter.ai/api/v1",
        ("sk-or-",),
        "https://openrouter.ai/keys",
        Chat(
            model="openai/gpt-6-luna",
            checked=date(2026, 11, 28),
            extras=_SEED,
            reasoning=("openai/gpt-5", "openai/gpt-6", "openai/gpt-oss", "deepseek/deepseek-", "x-ai/grok-4"),
            unbilled_errors=frozenset({400, 408, 500, 502, 503}),  # "zero completion insurance"
            training="model",
        ),
        key_path="/key",
    ),
    _remote(
        "groq",
        "https://api.groq.com/openai/v1",
        ("gsk_",),
        "https://console.groq.com/keys",
        Chat(
            model="openai/gpt-oss-20b",
            checked=date(2026, 11, 28),
            max_tokens="max_completion_tokens",
            extras=_SEED,
            reasoning=("openai/gpt-oss", "qwen/qwen3"),
            batch=True,
            training="model",
        ),
    ),
    _remote(
        "together",
        "https://api.together.xyz/v1",
        (),
        "https://api.together.xyz/settings/api-keys",
        Chat(
            model="openai/gpt-oss-120b",
            checked=date(2026, 11, 28),
            group="n",
            extras=_SEED,
            reasoning=("openai/gpt-oss", "Qwen/Qwen3", "deepseek-ai/DeepSeek-V4", "zai-org/GLM-5"),
            training="model",
            serves_own_weights=True,
        ),
    ),
    _remote(
        "mistral",
        "https://api.mistral.ai/v1",
        (),
        "https://console.mistral.ai/api-keys",
        Chat(model="mistral-small-latest", checked=date(2026, 11, 28), group="n", reasoning=("magistral",)),
    ),
    _remote(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("AIza",),
        "https://aistudio.google.com/apikey",
        Chat(
            model="gemini-2.5-flash-lite",
            checked=date(2026, 11, 28),
            reasoning=("gemini-2.5-pro", "gemini-3"),
            flex_share=0.5,
            unbilled_errors=frozenset({400, 500}),
            prices="google",
            training="restricted",
        ),
        "GOOGLE_API_KEY",
    ),
    _remote(
        "xai",
        "https://api.x.ai/v1",
        ("xai-",),
        "https://console.x.ai",
        Chat(
            model="grok-4.3",
            checked=date(2026, 11, 28),
            group="n",
            max_tokens="max_completion_tokens",
            extras=_SEED,
            reasoning=("grok-",),
            bounds_reasoning=False,
            batch_share=0.8,
            prices="x-ai",
            training="restricted",
        ),
    ),
    _remote(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        ("fw_",),
        "https://app.fireworks.ai/settings",
        Chat(
            model="accounts/fireworks/models/gpt-oss-120b",
            checked=date(2026, 11, 28),
            group="n",
            reasoning=tuple(
                f"accounts/fireworks/models/{name}" for name in ("gpt-oss", "deepseek-v4", "glm-5", "kimi-k", "qwen3p")
            ),
            training="model",
            serves_own_weights=True,
            scores_tokens=True,
        ),
    ),
    _remote(
        "cerebras",
        "https://api.cerebras.ai/v1",
        ("csk-",),
        "https://cloud.cerebras.ai",
        Chat(
            model="gpt-oss-120b",
            checked=date(2026, 11, 28),
            max_tokens="max_completion_tokens",
            extras=_SEED,
            reasoning=("gpt-oss", "qwen-3"),
            training="model",
        ),
    ),
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
    _local("vllm", 8000, group="n", extras=_SEED, scores_tokens=True),
    _local("sglang", 30000, group="n", extras=_SEED, scores_tokens=True),
    _local("llamacpp", 8080, extras=_SEED),
    _local("ollama", 11434, extras=_SEED),
    _local("lmstudio", 1234, extras=_SEED),
    _local("transformers", 8000),
    _local("litellm", 4000, group="n"),
)

PROVIDERS = {row.name: row for row in _ROWS}
KEY_VARIABLES = frozenset(variable for row in _ROWS for variable in row.variables)
