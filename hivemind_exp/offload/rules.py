"""Which ``[offload]`` settings cannot work together, or would teach nothing."""

import re
import shlex
from collections.abc import Iterator
from typing import get_args
from urllib.parse import urlsplit

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.offload.settings import (
    LOCAL,
    Endpoint,
    chain,
    first_endpoint,
    inference_engine_name,
    is_distilled,
    is_offloaded,
)
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import is_loopback
from hivemind_exp.serving_settings import InferenceEngineName
from hivemind_exp.source_kinds import POLICY_SERVER, Kind

_PLACEHOLDER = re.compile(r"<.+>|MODEL|(?i:your[-_ ]model)")
"""What documents write where a model's name belongs."""


def check_offload(config: Config) -> None:
    """Raise ``ConfigurationError`` for ``[offload]`` settings that cannot work or would teach nothing."""
    if is_offloaded(config):
        _check_models(config)
        for broken, message, setting in _rules(config):
            if broken:
                raise ConfigurationError(message, next=f"swarmctl run --set {shlex.quote(setting)}")


def _check_models(config: Config) -> None:
    """Raise ``ConfigurationError`` if a model's name was copied from a document."""
    for each in chain(config):
        if each is not None and _PLACEHOLDER.fullmatch(each.model):
            address = f" --set {shlex.quote(f'providers.{each.name}.base_url={each.base_url}')}"
            raise ConfigurationError(
                f"the model of {each.name} is still the placeholder {each.model}; name one that {each.name} has",
                next=f"swarmctl models {each.name}{address if each.name in config.providers else ''}",
            )


def _rules(config: Config) -> Iterator[tuple[bool, str, str]]:
    """Yield for each rule whether it is broken, the error message, and the setting that fixes it."""
    offload, kind, first = config.offload, config.offload.counts_as, first_endpoint(config)
    foreign = next((each.name for each in chain(config) if each and not each.chat.serves_own_weights), None)
    if offload.kind == POLICY_SERVER:
        yield from _policy_server_rules(config, first)
    if kind is Kind.POLICY:
        yield from _policy_rules(config)
    text = (
        f"the node pushes its weights to a server that it starts, which needs offload.kind = policy, not {offload.kind}"
    )
    yield bool(offload.serving.command) and offload.kind != POLICY_SERVER, text, "offload.kind=policy"
    yield (
        kind is Kind.POLICY_TEXT and foreign is not None,
        f"offload.kind = policy_text needs a server with this node's weights, but {foreign} serves only its own "
        "models; use it as a teacher",
        "offload.kind=teacher",
    )
    if offload.teach != "answers":
        yield from _rules_without_answers(config, kind)
    if is_distilled(config):
        yield from _distillation_rules(config, first)
    if kind is Kind.RELAY:
        yield from _relay_rules(config)
    alone = offload.share == 1 and offload.when == "always"
    yield (
        alone and kind is Kind.TEACHER and config.train.joins_baseline,
        f"train.teacher_loss = {config.train.teacher_loss} compares a teacher's rows with the node's own rows in the "
        "same group, but with offload.share = 1 the node has none",
        "offload.share=0.5",
    )
    text = f"{first.name} has no service tier flex; its requests always cost the normal price"
    yield offload.service_tier == "flex" and first.chat.flex_share is None, text, "offload.service_tier=default"
    if offload.batch:
        setting = "offload.batch=false"
        yield not first.chat.batch, f"{first.name} has no Batch API", setting
        later = set(offload.stages) != {"answer"}
        text = 'a batch takes hours, too long for later stages: offload.batch needs offload.stages = ["answer"]'
        yield later, text, setting
        yield (
            kind.own or offload.when == "failed",
            "a batch takes hours, so offload.batch works only for a teacher or a relay, with offload.when = always",
            setting,
        )


def _policy_server_rules(config: Config, first: Endpoint) -> Iterator[tuple[bool, str, str]]:
    """Yield the rules for servers to which this node pushes its weights."""
    offload, name, engines = config.offload, "offload.kind = policy", get_args(InferenceEngineName)
    built_in = first.name in PROVIDERS and first.name not in engines
    unknown = built_in and (first.needs_key or offload.serving.engine == "auto")
    yield (
        unknown or not first.chat.serves_own_weights,
        f"{name} needs token ids and log-probabilities from a server to which this node pushes its weights: "
        f"{' or '.join(engines)} (--offload {engines[0]}:NAME, or the URL of one). {first.name} is none",
        "offload.kind=teacher" if not first.chat.serves_own_weights else "offload.kind=policy_text",
    )
    text = f"{name} is for servers of your own, whose cost is not counted, but {first.name} is not marked as free"
    yield not first.chat.free, text, f"providers.{first.name}.free=true"
    text = f"{name} sends no API key, but {first.name} needs one"
    yield first.needs_key, text, f"providers.{first.name}.needs_key=false"
    limit = config.generation.max_completion_tokens
    text = (
        f"{name} limits completions by generation.max_completion_tokens = {limit}, so offload.max_tokens has no effect"
    )
    yield offload.max_tokens not in (None, limit), text, f"offload.max_tokens={limit}"
    text = "offload.serving.command starts one server, so offload.serving.urls has no effect"
    yield bool(offload.serving.command and offload.serving.urls), text, "offload.serving.urls=[]"
    start = f"offload.serving.command={inference_engine_name(config)}"
    text = "without offload.serving.command, the node starts no server, so offload.serving.{} has no effect"
    alone = not offload.serving.command
    yield alone and bool(offload.serving.arguments), text.format("arguments"), start
    yield alone and offload.serving.gpu is not None, text.format("gpu"), start
    if offload.serving.turns == "on":
        yield from _turn_rules(config, first)


def _policy_rules(config: Config) -> Iterator[tuple[bool, str, str]]:
    """Yield the rules for every source whose completions count as samples of this node's weights."""
    offload, name = config.offload, f"offload.kind = {config.offload.kind}"
    others = " and ".join(each for each in offload.fallback if each != LOCAL)
    text = f"{name} learns from this node's own weights, so {others} cannot take over; this machine can"
    yield bool(others), text, 'offload.fallback=["local"]'
    ahead, steps, most = offload.ahead or 0, config.game.steps_a_round, config.train.max_lag
    in_turn = offload.kind == POLICY_SERVER and offload.serving.turns == "on"
    lag = ahead * steps
    text = (
        f"completions requested {ahead} round{'s' * (ahead != 1)} ahead (offload.ahead) are {lag} "
        f"step{'s' * (lag != 1)} old when they are learned, older than train.max_lag = {most} allows, so all of them "
        "would be dropped"
    )
    stale = STAGE_NAMES[0] in offload.stages and not in_turn and lag > most
    yield stale, text, f"offload.ahead={most // steps}"


def _turn_rules(config: Config, first: Endpoint) -> Iterator[tuple[bool, str, str]]:
    name, setting = "offload.serving.turns = on", "offload.serving.turns=off"
    elsewhere = next((url for url in config.offload.serving.urls or [first.base_url] if not _is_here(url)), None)
    text = f"{name} is for a server on the GPU that this machine trains on, but {elsewhere} is another machine"
    yield elsewhere is not None, text, setting
    ahead = config.offload.ahead
    text = f"with {name}, the server sleeps while this machine trains, so it cannot generate ahead (offload.ahead)"
    yield bool(ahead), text, "offload.ahead=0"
    processes = config.train.processes
    yield processes > 1, f"{name} works with one GPU, but train.processes = {processes}", setting


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _relay_rules(config: Config) -> Iterator[tuple[bool, str, str]]:
    offload = config.offload
    partly = offload.share < 1 or offload.when == "failed"
    text = "the API must fill every slot of a relay: use offload.share = 1 and offload.when = always"
    yield partly, text, "offload.share=1.0"
    text = 'the API must fill every round of a relay: use offload.rounds = "*", and game.rounds to set when it ends'
    yield offload.rounds != "*", text, "offload.rounds=*"
    text = "a relay loads no model, so this machine cannot take over when a spending cap is reached"
    yield offload.on_limit == "local", text, "offload.on_limit=stop"
    text = "a relay has no answers of its own for the later stages of study-group; use game.kind = sampling"
    yield config.game.kind == "study-group", text, "game.kind=sampling"


def _rules_without_answers(config: Config, kind: Kind) -> Iterator[tuple[bool, str, str]]:
    """Yield the rules for hints and for distillation, with which this machine generates every completion."""
    offload, name = config.offload, f"offload.teach = {config.offload.teach}"
    text = f"{name} is for a teacher, so it needs offload.kind = teacher, not {offload.kind}"
    yield kind is not Kind.TEACHER, text, "offload.kind=teacher"
    text = f"{name} asks the API in the middle of a round, and a batch takes hours"
    yield offload.batch, text, "offload.batch=false"
    text = f'{name} works only in the stage answer, so it needs offload.stages = ["answer"]'
    yield set(offload.stages) != {"answer"}, text, 'offload.stages=["answer"]'
    loss = config.train.teacher_loss
    text = f"train.teacher_loss = {loss} learns from a teacher's answers, and with {name} there are none"
    yield config.train.joins_baseline, text, "train.teacher_loss=gated"
    text = f"{name} needs game.kind = sampling, which has no later stages"
    yield offload.teach == "hints" and config.game.kind != "sampling", text, "game.kind=sampling"


def _distillation_rules(config: Config, first: Endpoint) -> Iterator[tuple[bool, str, str]]:
    offload, name = config.offload, "offload.teach = distillation"
    able = ", ".join(each for each, row in PROVIDERS.items() if row.chat is not None and row.chat.scores_tokens)
    yield (
        not first.chat.scores_tokens,
        f"{name} needs the log-probabilities of this machine's tokens, which {first.name} does not return. {able} do, "
        f"and so may a server of your own ([providers.NAME]). {first.name} can teach with its answers",
        "offload.teach=answers",
    )
    here = f"with {name}, this machine generates every completion and the API scores it"
    yield offload.share < 1, f"{here}, so offload.share has no effect", "offload.share=1.0"
    yield offload.when == "failed", f"{here}, so offload.when has no effect", "offload.when=always"
    text = f"{here} before each step, so nothing can be requested ahead (offload.ahead)"
    yield bool(offload.ahead), text, "offload.ahead=0"
    others = " and ".join(each for each in offload.fallback if each != LOCAL)
    text = f"{name} has one teacher, so {others} cannot be its fallback"
    yield bool(others), text, 'offload.fallback=["local"]'
    temperature = config.generation.temperature
    text = (
        f"{name} compares log-probabilities, and services return those for temperature 1, but generation.temperature "
        f"is {temperature:g}"
    )
    yield temperature != 1, text, "generation.temperature=1.0"
