"""From names in a configuration to services that can be asked: rows of the table, or the profile's own."""

import difflib
from dataclasses import dataclass
from urllib.parse import urlsplit

from hivemind_exp.config import OFF, Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.providers import PROVIDERS, Chat, Training

LOCAL = "local"
"""In ``offload.fallback``: this machine generates."""
TRAINING: dict[Training, str] = {
    "allowed": "its terms let output be trained on",
    "restricted": "its terms restrict training on output: read them before you share or publish what is learned",
    "model": "whether output may be trained on follows from the model's licence",
    "unknown": "whether its terms let output be trained on is not known here: read them",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One service and the model it is asked for."""

    name: str
    base_url: str
    model: str
    chat: Chat
    needs_key: bool

    @property
    def label(self) -> str:
        """For people: ``openai:gpt-4o-mini``."""
        return f"{self.name}:{self.model}"

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    @property
    def reasons(self) -> bool:
        """Whether the model thinks unseen before it answers."""
        return self.model.startswith(self.chat.reasoning) if self.chat.reasoning else False


def is_offloaded(config: Config) -> bool:
    """Whether the configuration names a provider."""
    return config.offload.provider != OFF


def first_endpoint(config: Config) -> Endpoint:
    """Return the provider that is asked as long as it can. Raises ``ConfigurationError``."""
    provider, model = split(config.offload.provider)
    return _endpoint(config, provider, config.offload.model or model)


def chain(config: Config) -> list[Endpoint | None]:
    """Return who generates, in order; None is this machine, which a relay leaves out: it loads no model.

    Raises ``ConfigurationError``.
    """
    found: list[Endpoint | None] = [first_endpoint(config)]
    for name in config.offload.fallback:
        if name != LOCAL:
            found.append(_endpoint(config, *split(name)))
        elif config.offload.kind != "relay":
            found.append(None)
    return found


def split(text: str) -> tuple[str, str | None]:
    """Take ``PROVIDER[:MODEL]`` apart at the first colon: names of models may have more."""
    provider, _, model = text.partition(":")
    return provider, model or None


def _endpoint(config: Config, name: str, model: str | None) -> Endpoint:
    own, row = config.providers.get(name), PROVIDERS.get(name)
    if own is not None:
        same = own.model_dump(include={"model", "group", "free", "batch", "training"})
        chat = Chat(**same, max_tokens=own.max_tokens_name, serves_own_weights=True)
        base_url, needs_key = own.base_url.rstrip("/"), own.needs_key
    elif row is not None and row.chat is not None:
        chat, base_url, needs_key = row.chat, row.base_url, row.needs_key
    else:
        raise _unknown(config, name)
    model = model or chat.model
    if model is None:
        message = f"{name} has no usual model: say which one to ask for"
        raise ConfigurationError(message, next=f"swarmctl run --offload {name}:MODEL")
    return Endpoint(name, base_url, model, chat, needs_key)


def _unknown(config: Config, name: str) -> ConfigurationError:
    names = [*(row.name for row in PROVIDERS.values() if row.chat), *config.providers]
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
    return ConfigurationError(
        f"no provider is called {name!r}{guess} (one of your own is a [providers.{name}] with a base_url)",
        next=f"swarmctl run --offload {near[0] if near else 'openai'}",
    )
