"""What an API's text is taken to be, and what is therefore learned from it. Senseless settings are refused here."""

import shlex

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.endpoints import Endpoint, chain, first_endpoint, is_offloaded
from hivemind_exp.rollouts.types import Kind


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
