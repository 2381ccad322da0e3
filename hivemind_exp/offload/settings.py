"""Settings of ``[offload]``: which services they name, what an API's text is taken to be, what is learned from it.

Settings that cannot work are refused here.
"""

import difflib
import shlex
from collections.abc import Iterator
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
        names = [*(row.name for row in PROVIDERS.values() if row.chat), *config.providers]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
        raise ConfigurationError(
            f"no provider is called {name!r}{guess} (one of your own is a [providers.{name}] with a base_url)",
            next=f"swarmctl run --offload {near[0] if near else 'openai'}",
        )
    model = model or chat.model
    if model is None:
        message = f"{name} has no usual model: say which one to ask for"
        raise ConfigurationError(message, next=f"swarmctl run --offload {name}:MODEL")
    return Endpoint(name, base_url, model, chat, needs_key)


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
    if is_offloaded(config):
        for broken, message, setting in _rules(config):
            if broken:
                raise ConfigurationError(message, next=f"swarmctl run --set {shlex.quote(setting)}")


def _rules(config: Config) -> Iterator[tuple[bool, str, str]]:
    """Yield for each rule whether it is broken, what is wrong then, and the setting that mends it."""
    offload, kind, first = config.offload, resolved_kind(config), first_endpoint(config)
    foreign = next((each.name for each in chain(config) if each and not each.chat.serves_own_weights), None)
    yield (
        kind is Kind.POLICY,
        "the kind policy needs token ids and log-probabilities from a server to which this node pushed its "
        f"weights; {first.name} gives text: use policy_text if it serves these very weights",
        "offload.kind=policy_text",
    )
    yield (
        kind is Kind.POLICY_TEXT and foreign is not None,
        f"policy_text says that {foreign} serves this node's weights, and it serves only its own models: its text is a "
        "teacher's",
        "offload.kind=teacher",
    )
    if kind is Kind.RELAY:
        yield from _relay_rules(config)
    alone = offload.share == 1 and offload.when == "always"
    yield (
        alone and kind is Kind.TEACHER and config.train.teacher_loss == "luffy",
        "luffy weighs a teacher's rows against the node's own of the same group, and with offload.share = 1 there are "
        "none",
        "offload.share=0.5",
    )
    if offload.batch:
        setting = "offload.batch=false"
        yield not first.chat.batch, f"{first.name} has no Batch API", setting
        later = set(offload.stages) != {"answer"}
        yield later, "a batch takes hours, and a later stage waits for the one before", setting
        yield (
            kind is Kind.POLICY_TEXT or offload.when == "failed",
            "a batch takes hours: only what a teacher or a relay says to questions known beforehand can wait that long",
            setting,
        )


def _relay_rules(config: Config) -> Iterator[tuple[bool, str, str]]:
    offload = config.offload
    partly = offload.share < 1 or offload.when == "failed"
    yield partly, "a relay trains nothing, so nothing is left for this machine to sample", "offload.share=1.0"
    text = "a relay has nothing to do in rounds that the API does not fill: game.rounds says when it ends"
    yield offload.rounds != "*", text, "offload.rounds=*"
    text = "a relay loads no model, so at a cap this machine cannot go on"
    yield offload.on_limit == "local", text, "offload.on_limit=stop"
    text = "a relay has no answers of its own to show in the later stages of study-group; it plays sampling"
    yield config.game.kind == "study-group", text, "game.kind=sampling"


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
