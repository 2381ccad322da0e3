"""The meaning of ``[offload]``: which services it names, what their text counts as, and what is learned from it."""

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args
from urllib.parse import urlsplit

from hivemind_exp.config import OFF, Config, OffloadConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.model_names import short_name
from hivemind_exp.offload import hints
from hivemind_exp.providers import PROVIDERS, Chat, Training
from hivemind_exp.proxies import has_host
from hivemind_exp.serving_settings import InferenceEngineName
from hivemind_exp.source_kinds import POLICY_SERVER, Kind

_LONGEST_MODEL = 100
_PORT = re.compile(r"\d{1,5}(/|:|$)")
"""How the model of ``HOST:PORT`` begins, an address without its scheme."""
_DEFAULT_ENGINE: InferenceEngineName = "vllm"
OFFLOAD, JUDGE = "offload", "judge"
"""The settings tables that name providers."""
LOCAL = "local"
"""In ``offload.fallback``: generate on this machine."""
TRAINING: dict[Training, str] = {
    "allowed": "its terms allow training on its output",
    "restricted": "its terms restrict training on its output, so read them before you share or publish the model",
    "model": "the model's license says whether you may train on its output",
    "unknown": "it is unknown whether its terms allow training on its output, so read them",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One service and the model to ask for."""

    name: str
    base_url: str
    model: str
    chat: Chat
    needs_key: bool

    @property
    def label(self) -> str:
        """Name for people, such as ``openai:gpt-4o-mini``. A model's path is cut to its last component."""
        return f"{self.name}:{foreign(short_name(self.model), _LONGEST_MODEL)}"

    @property
    def full_name(self) -> str:
        """Name for programs and commands, as ``offload.provider`` takes it."""
        return f"{self.name}:{self.model}"

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    @property
    def key_command(self) -> str:
        """The command that saves its key."""
        host = "" if self.name in PROVIDERS else f" --host {shlex.quote(self.base_url)}"
        return f"swarmctl keys set {self.name}{host}"

    @property
    def reasons(self) -> bool:
        """Whether the model is known to use hidden reasoning before it answers, unless it is switched off."""
        return self.model.startswith(self.chat.reasoning) and "non-reasoning" not in self.model


def training_terms(config: Config, endpoint: Endpoint) -> str:
    """Say in one clause whether an endpoint's output may be trained on."""
    if is_offloaded(config) and config.offload.counts_as is Kind.POLICY:
        return "it writes with this node's own weights"
    if endpoint.name in config.providers and endpoint.chat.training == "unknown":
        return (
            "whether you may train on its output depends on the model's license and the service's terms (you may note "
            f"what they say in providers.{endpoint.name}.training)"
        )
    return TRAINING[endpoint.chat.training]


def is_offloaded(config: Config) -> bool:
    """Whether an API is used at all, to generate or to teach."""
    return config.offload.provider != OFF


def is_distilled(config: Config) -> bool:
    """Whether an API scores the node's own completions, and generates none."""
    return is_offloaded(config) and config.offload.teach == "distillation"


def teaches_hints(config: Config) -> bool:
    """Whether an API writes hints for questions that this machine gets wrong, and generates no completion."""
    return is_offloaded(config) and config.offload.teach == "hints"


def generates(config: Config) -> bool:
    """Whether an API generates completions."""
    return is_offloaded(config) and config.offload.teach == "answers"


def first_endpoint(config: Config) -> Endpoint:
    """Return the provider that is asked first. Raises ``ConfigurationError``."""
    provider, model = split(config.offload.provider)
    own = config.model.name if config.offload.counts_as is Kind.POLICY else None  # the weights are this node's
    found = endpoint_of(config, provider, config.offload.model or model or own)
    return replace(found, base_url=urls[0]) if (urls := _replica_urls(config)) else found


def replica_endpoints(config: Config) -> list[Endpoint]:
    """Return the servers to which a node pushes its weights, or else its first provider.

    Raises ``ConfigurationError``.
    """
    first = first_endpoint(config)
    return [replace(first, base_url=url) for url in _replica_urls(config)] or [first]


def hosts_of(endpoints: Sequence[Endpoint]) -> str:
    """Return the hosts of services, for people."""
    return ", ".join(dict.fromkeys(endpoint.host for endpoint in endpoints))


def _replica_urls(config: Config) -> list[str]:
    """Return the addresses that replace the provider's."""
    offload = config.offload
    return [url.rstrip("/") for url in offload.serving.urls] if offload.kind == POLICY_SERVER else []


def chain(config: Config) -> list[Endpoint | None]:
    """Return what generates, in order of preference; None is this machine.

    A relay's chain never includes this machine, since a relay loads no model. Raises ``ConfigurationError``.
    """
    found: list[Endpoint | None] = [first_endpoint(config)]
    for name in config.offload.fallback:
        if name != LOCAL:
            found.append(endpoint_of(config, *split(name)))
        elif config.offload.counts_as is not Kind.RELAY:
            found.append(None)
    return found


def split(text: str) -> tuple[str, str | None]:
    """Split ``PROVIDER[:MODEL]`` at the first colon, since model names may contain colons."""
    provider, _, model = text.partition(":")
    return provider, model or None


def endpoint_of(config: Config, name: str, model: str | None) -> Endpoint:
    """Return a provider with a model; None: its default model. Raises ``ConfigurationError``."""
    own, row = config.providers.get(name), PROVIDERS.get(name)
    if own is not None:
        same = own.model_dump(include={"model", "group", "free", "batch", "training"})
        reasoning = ("",) if own.reasons else ()  # a prefix of every model
        chat = Chat(
            **same, max_tokens=own.max_tokens_name, reasoning=reasoning, serves_own_weights=True, scores_tokens=True
        )
        base_url, needs_key = own.base_url.rstrip("/"), own.needs_key
    elif row is not None and row.chat is not None:
        chat, base_url, needs_key = row.chat, row.base_url, row.needs_key
    else:
        names = [*(row.name for row in PROVIDERS.values() if row.chat), *config.providers]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
        if near:
            message = f"unknown provider {name!r}; did you mean {near[0]}?"
            raise ConfigurationError(message, next=f"swarmctl run --offload {near[0]}")
        raise _unknown(name, model, names)
    model = model or chat.model
    if model is None:
        address = f" --set {shlex.quote(f'providers.{name}.base_url={base_url}')}" if own and not needs_key else ""
        message = f"{name} has no default model; choose one with --offload {name}:MODEL"
        raise ConfigurationError(message, next=f"swarmctl models {name}{address}")
    return Endpoint(name, base_url, model, chat, needs_key)


def _unknown(name: str, model: str | None, names: Sequence[str]) -> ConfigurationError:
    """Return the error for a provider that does not exist, with the command that uses a server of the operator's."""
    if name in ("http", "https"):
        address = f"{name}:{model or ''}"
        if not has_host(address):
            text = f"invalid server URL {address!r}: it has no host"
            return ConfigurationError(text, next="swarmctl run --offload http://HOST:PORT/v1")
        message = f"offload.provider takes a provider's name, but {address} is a URL; --offload takes URLs, too"
        return ConfigurationError(message, next=shlex.join(["swarmctl", "run", "--offload", address]))
    if _PORT.match(model or ""):
        address = f"http://{name}:{model}"
        message = f"unknown provider {name!r}; a server's URL begins with http:// or https://"
        return ConfigurationError(message, next=shlex.join(["swarmctl", "run", "--offload", address]))
    known = ", ".join(names)
    return ConfigurationError(
        f"unknown provider {name!r}; known providers are {known}. For your own server, give its URL",
        next="swarmctl run --offload http://HOST:PORT/v1",
    )


LEAST_TEACHER_TOKENS = 1024
"""A teacher's default limit is at least this, because it writes its reasoning first, and a completion that is cut
teaches nothing."""


SCORE_STAGE = "score"
"""The stage under which a teacher's scores are journaled and billed. No game has it."""
SCORING_TOKENS = 1
"""Tokens that a request for scores also generates, because most services refuse to generate none. They are ignored."""


def only_if_failed(offload: OffloadConfig) -> bool:
    """Whether the API is asked only about groups in which this machine has no correct completion."""
    return offload.when == "failed" or offload.teach == "hints"


def token_limit(config: Config) -> int:
    """Return the most tokens that a completion from the API may have, without hidden reasoning."""
    own = config.generation.max_completion_tokens
    if is_distilled(config):
        return SCORING_TOKENS
    if config.offload.max_tokens is not None:
        return config.offload.max_tokens
    if teaches_hints(config):
        return hints.MOST_TOKENS
    return max(own, LEAST_TEACHER_TOKENS) if config.offload.counts_as is Kind.TEACHER else own


def reasons(config: Config, endpoint: Endpoint) -> bool:
    """Return whether an endpoint's completions are known in advance to need tokens for hidden reasoning."""
    return endpoint.reasons and config.offload.reasoning_effort != "none" and not is_distilled(config)


def share_of(offload: OffloadConfig, group_size: int) -> int:
    """Return how many slots of a group the API fills, or are answered again with its hint.

    With a share below 1, at least one slot stays local: whoever sets such a share wants local samples, too."""
    most = group_size if offload.share == 1 or only_if_failed(offload) else group_size - 1
    return min(most, max(1, round(offload.share * group_size)))


def requests_a_round(config: Config, endpoint: Endpoint) -> int:
    """Return how many requests a round needs at most, if each of them brings what it asks for."""
    if teaches_hints(config):
        return config.game.groups
    if is_distilled(config):
        return config.game.groups * config.game.group_size
    whole = endpoint.chat.group == "n" or config.offload.kind == POLICY_SERVER
    per_group = 1 if whole else share_of(config.offload, config.game.group_size)
    return config.game.groups * len(set(config.offload.stages)) * per_group


def is_relay(config: Config) -> bool:
    """Whether the node is a relay, which loads no model."""
    return is_offloaded(config) and config.offload.counts_as is Kind.RELAY


def inference_engine_name(config: Config) -> str:
    """Return what the servers of this node's weights run, as ``offload.serving.engine`` says or the provider's name."""
    chosen, (name, _) = config.offload.serving.engine, split(config.offload.provider)
    if chosen != "auto":
        return chosen
    return name if name in get_args(InferenceEngineName) and name not in config.providers else _DEFAULT_ENGINE
