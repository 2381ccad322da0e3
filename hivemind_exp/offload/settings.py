"""Settings of ``[offload]``: which services they name, what an API's text is taken to be, what is learned from it.

Settings that cannot work are refused here.
"""

import difflib
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from hivemind_exp.config import OFF, Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.providers import PROVIDERS, Chat, Training
from hivemind_exp.rollouts.types import Kind

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


def resolved_kind(config: Config) -> Kind:
    """Return the kind of the API's rollouts: what ``offload.kind`` says, else a teacher.

    Nothing is assumed about whose weights a server has: ``auto`` never means this node's.
    """
    return Kind.TEACHER if config.offload.kind == "auto" else Kind(config.offload.kind)


def is_relay(config: Config) -> bool:
    """Whether the node only relays: then it loads no model."""
    return is_offloaded(config) and resolved_kind(config) is Kind.RELAY


def check_offload(config: Config) -> None:
    """Raise ``ConfigurationError`` for settings of ``[offload]`` that cannot work or teach nothing."""
    if not is_offloaded(config):
        return
    offload, kind, endpoints = config.offload, resolved_kind(config), chain(config)
    first = first_endpoint(config)
    if kind is Kind.POLICY:
        raise _refused(
            "the kind policy needs token ids and log-probabilities from a server to which this node pushed its "
            f"weights; {first.name} gives text: use policy_text if it serves these very weights",
            "offload.kind=policy_text",
        )
    if kind is Kind.POLICY_TEXT:
        _check_own_weights([endpoint for endpoint in endpoints if endpoint is not None])
    if kind is Kind.RELAY:
        _check_relay(config)
    alone = offload.share == 1 and offload.when == "always"
    if kind is Kind.TEACHER and config.train.teacher_loss == "luffy" and alone:
        raise _refused(
            "luffy weighs a teacher's rows against the node's own of the same group, and with offload.share = 1 there "
            "are none",
            "offload.share=0.5",
        )
    _check_batch(config, kind, first)


def _check_relay(config: Config) -> None:
    offload = config.offload
    if offload.share < 1 or offload.when == "failed":
        raise _refused("a relay trains nothing, so nothing is left for this machine to sample", "offload.share=1.0")
    if offload.rounds != "*":
        text = "a relay has nothing to do in rounds that the API does not fill: game.rounds says when it ends"
        raise _refused(text, "offload.rounds=*")
    if offload.on_limit == "local":
        raise _refused("a relay loads no model, so at a cap this machine cannot go on", "offload.on_limit=stop")
    if config.game.kind == "study-group":
        text = "a relay has no answers of its own to show in the later stages of study-group; it plays sampling"
        raise _refused(text, "game.kind=sampling")


def _check_own_weights(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        if not endpoint.chat.serves_own_weights:
            raise _refused(
                f"policy_text says that {endpoint.name} serves this node's weights, and it serves only its own models: "
                "its text is a teacher's",
                "offload.kind=teacher",
            )


def _check_batch(config: Config, kind: Kind, first: Endpoint) -> None:
    if not config.offload.batch:
        return
    if not first.chat.batch:
        raise _refused(f"{first.name} has no Batch API", "offload.batch=false")
    if set(config.offload.stages) != {"answer"}:
        raise _refused("a batch takes hours, and a later stage waits for the one before", "offload.batch=false")
    if kind is Kind.POLICY_TEXT or config.offload.when == "failed":
        raise _refused(
            "a batch takes hours: only what a teacher or a relay says to questions known beforehand can wait that long",
            "offload.batch=false",
        )


def _refused(message: str, setting: str) -> ConfigurationError:
    return ConfigurationError(message, next=f"swarmctl run --set {shlex.quote(setting)}")


def describe_loss(config: Config) -> str:
    """Say in one sentence what is learned from the API's text."""
    kind, offload = resolved_kind(config), config.offload
    if kind is Kind.RELAY:
        return "relay: completions are verified and kept; no model is loaded and nothing is learned"
    if kind is Kind.POLICY_TEXT:
        return "policy_text: GRPO with ratio 1 on re-encoded text; negative advantages are dropped, the lag is unknown"
    if config.train.teacher_loss == "luffy":
        return "teacher: LUFFY, policy shaping f(π) = π/(π + 0.1), advantages within the joint group"
    if offload.share == 1 and offload.when == "always":
        return "teacher: verified distillation, only right answers in strict format, weight clip(1 - pass rate, 0.1, 1)"
    return "teacher: verified distillation, only right answers in strict format, weight max(0, 1 - mean of own rewards)"
