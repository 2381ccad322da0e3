"""The providers of a profile's chain, as its checks see them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from swarmctl.doctor.check import Context, Finding, failed, warning
from swarmctl.keys.finder import Key, KeyFinder
from swarmctl.terminal.prompter import Prompter

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.offload.settings import Endpoint

_START = {
    "vllm": "vllm serve {model} --port {port}",
    "sglang": "python -m sglang.launch_server --model-path {model} --port {port}",
    "llamacpp": "llama-server {option} {model} --port {port}",
    "ollama": "ollama serve",
    "lmstudio": "lms server start",
    "transformers": "transformers serve {model} --port {port}",
    "litellm": "litellm --model {model} --port {port}",
}
"""What starts a server on a machine of one's own."""
_FETCH = {"ollama": "ollama pull {model}", "lmstudio": "lms get {model}"}


@dataclass(frozen=True, slots=True)
class ApiService:
    """One provider of the chain with its model."""

    endpoint: Endpoint
    label: str
    """What its checks are called: its name, with the model where one provider stands there twice."""
    place: int
    """In ``offload.fallback``; -1 for the one that is asked first."""

    @property
    def trouble(self) -> Callable[..., Finding]:
        """How bad it is when it cannot be used: a run begins without those that only stand in."""
        return failed if self.place < 0 else warning

    @property
    def url(self) -> SplitResult:
        return urlsplit(self.endpoint.base_url)

    @property
    def start(self) -> str | None:
        """The command that starts a server of the provider table; None for other services."""
        return self._filled(_START)

    @property
    def fetch(self) -> str | None:
        """The command with which a server gets the model that it lacks; None where there is none."""
        return self._filled(_FETCH)

    def _filled(self, commands: dict[str, str]) -> str | None:
        template, model = commands.get(self.endpoint.name), self.endpoint.model
        # llama.cpp takes a file, or the name of a repository on the hub.
        option = "-m" if model.endswith(".gguf") else "-hf"
        return template and template.format(model=shlex.quote(model), port=self.url.port, option=option)

    def key(self, context: Context) -> Key | None:
        """Return its key as a run would find it; None where none is needed. Looks once. Raises KeyProblem."""
        # Silent: a dialog of the keyring that waits for somebody is no answer to a check.
        finder = KeyFinder(Prompter(silent=True), context.environment)
        name, pin = f"api.{self.endpoint.name}.key", context.config.offload.key
        return context.facts.get(name, lambda: finder.find_for(self.endpoint, pin))

    def secret(self, context: Context) -> str | None:
        """Return what is shown to the service. Raises KeyProblem."""
        key = self.key(context)
        return key.value if key else None

    def with_model(self, context: Context, model: str) -> str:
        """Return the command that runs the same with another model of this provider."""
        if self.place < 0:
            return context.changed(offload__model=model)
        fallback = list(context.config.offload.fallback)
        fallback[self.place] = f"{self.endpoint.name}:{model}"
        return context.changed(offload__fallback=fallback)


def services(config: Config) -> list[ApiService]:
    """Return the providers in the order in which they are asked. Raises ConfigurationError."""
    from hivemind_exp.offload.settings import chain

    found = [(place, endpoint) for place, endpoint in enumerate(chain(config), -1) if endpoint is not None]
    names = Counter(endpoint.name for _, endpoint in found)
    return [
        ApiService(endpoint, endpoint.name if names[endpoint.name] == 1 else endpoint.label, place)
        for place, endpoint in found
    ]
