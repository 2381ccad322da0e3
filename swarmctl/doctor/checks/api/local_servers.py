"""Servers that run on machines of one's own, and what starts them."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from swarmctl.doctor.checks.api.chain import ApiService

_START = {
    "vllm": "vllm serve {model} --port {port}",
    "sglang": "python -m sglang.launch_server --model-path {model} --port {port}",
    "llamacpp": "llama-server {option} {model} --port {port}",
    "ollama": "ollama serve",
    "lmstudio": "lms server start",
    "transformers": "transformers serve {model} --port {port}",
    "litellm": "litellm --model {model} --port {port}",
}
_FETCH = {"ollama": "ollama pull {model}", "lmstudio": "lms get {model}"}


def start(service: ApiService) -> str | None:
    """Return the command that starts a server of the provider table; None for other services."""
    return _filled(_START, service)


def fetch(service: ApiService) -> str | None:
    """Return the command with which a server gets the model that it lacks; None where there is none."""
    return _filled(_FETCH, service)


def _filled(commands: dict[str, str], service: ApiService) -> str | None:
    template, model = commands.get(service.endpoint.name), service.endpoint.model
    if template is None:
        return None
    # llama.cpp takes a file, or the name of a repository on the hub.
    option = "-m" if model.endswith(".gguf") else "-hf"
    return template.format(model=shlex.quote(model), port=urlsplit(service.endpoint.base_url).port, option=option)
