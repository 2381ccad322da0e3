"""Commands of the programs that serve models on the user's own machines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from hivemind_exp.offload.settings import Endpoint

START: Mapping[str, str] = {
    "vllm": "vllm serve {model} --port {port}",
    "sglang": "python -m sglang.launch_server --model-path {model} --port {port}",
    "llamacpp": "llama-server {option} {model} --port {port}",
    "ollama": "ollama serve",
    "lmstudio": "lms server start",
    "transformers": "transformers serve {model} --port {port}",
    "litellm": "litellm --model {model} --port {port}",
}
"""Commands that start a local server, by provider."""
FETCH: Mapping[str, str] = {"ollama": "ollama pull {model}", "lmstudio": "lms get {model}"}
"""Commands that download a missing model to a server, by provider."""


ANY_MODEL = "any"
"""The model's name in a command that only asks a server which models it has."""


def server_command(endpoint: Endpoint, templates: Mapping[str, str]) -> str | None:
    """Return the command for a provider's server from a table of templates.

    None if the table has none, or if it needs a model and none is known.
    """
    template, model = templates.get(endpoint.name), endpoint.model
    if model == ANY_MODEL and "{model}" in (template or ""):
        return None
    # llama.cpp takes a file or the name of a hub repository.
    option = "-m" if model.endswith(".gguf") else "-hf"
    return template and template.format(model=shlex.quote(model), port=urlsplit(endpoint.base_url).port, option=option)
