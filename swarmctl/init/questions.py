"""The questions of ``swarmctl init``, each asked until its answer can work."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, NodeError
from hivemind_exp.model_names import short_name
from hivemind_exp.models import smollm2
from hivemind_exp.offload.prices import Price, bounded_price
from hivemind_exp.offload.settings import endpoint_of, first_endpoint, reasons, split
from hivemind_exp.providers import PROVIDERS
from swarmctl.nodes.lookup import files_of
from swarmctl.paths import shown
from swarmctl.profiles.new import new_path
from swarmctl.profiles.questions import assignment, check_answer, refuse_key, task_names, words_of
from swarmctl.profiles.suitable import suitable_builtin
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.allowed import shown as shown_value
from swarmctl.settings.checks import check_config
from swarmctl.settings.command_line import shown_value as shown_setting
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.resolve import override, resolve
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.suggest import nearest

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DEMO, _SMOL = "demo", "smol"
_NO_API = ("none", "no", "off")
"""Answers for no API; the first is shown."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The answers: a new profile that is not written yet."""

    base: Profile
    """The built-in profile that it starts from."""
    name: str
    settings: tuple[str, ...]
    """``KEY=VALUE`` for each setting that differs from the base."""


def ask(prompter: Prompter) -> Choices:
    """Ask the questions, five at most. Raises Abort at the end of the input."""
    prompter.say(
        "Answer a few questions. swarmctl then checks this machine and shows the plan. Nothing starts until you agree. "
        "Press Enter to accept the answer in brackets, Tab to complete names, or Ctrl-C to cancel."
    )
    base, settings = _model(prompter)
    if base.name != _DEMO:  # its model can do one task only, and an API could not teach it another
        settings += _tasks(prompter, base, settings)
        settings += _api(prompter, base, settings)
    return Choices(base, ask_name(prompter, suggested_name(base, settings)), tuple(settings))


def ask_name(prompter: Prompter, stem: str) -> str:
    """Ask for the name of the profile and its node. ``stem``: the name to suggest if it is free."""
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = next((name for name in names if _is_free(name)), "")
    prompter.say("")
    return prompter.answer("Name of the profile and its node", check_name, default=free)


def check_name(name: str) -> None:
    """Raise ConfigurationError if a profile or a node has this name, or none could have it."""
    refuse_key("node.name", name)
    if name in profiles.builtin_names():
        raise ConfigurationError(f"the profile {name} is built in; use another name")
    new_path(name, yes=False, again="")
    if os.path.lexists(files_of(name).root):
        raise ConfigurationError(f"a node {name} already exists; use another name")


def _is_free(name: str) -> bool:
    try:
        check_name(name)
    except NodeError:
        return False
    return True


def suggested_name(base: Profile, settings: Sequence[str]) -> str:
    """Return a name to suggest: after the model that was typed, or after the built-in profile."""
    model = next((text.partition("=")[2] for text in settings if text.startswith("model.name=")), None)
    if model is None:
        return f"my-{base.name}"
    last = short_name(model).rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]", "-", last).strip("._-")[:60].removesuffix(profiles.SUFFIX) or "my-model"


def _download() -> str:
    """Return what the profile ``smol`` needs to download."""
    return "already on this machine" if smollm2.stored(os.environ) else f"{smollm2.DOWNLOAD} to download"


def _model(prompter: Prompter) -> tuple[Profile, list[str]]:
    """Ask what to train. Return the built-in profile for it, and the setting of another model."""
    suitable = suitable_builtin()
    config = {name: _config(_builtin(name), ()) for name in profiles.builtin_names()}
    slow = config[suitable].model.device == "cpu"
    hours = "; about two hours on two cores" if slow else ""
    choices = {
        _DEMO: "a tiny model learns to spell backward, in less than a minute",
        _SMOL: f"{smollm2.TITLE} learns to add ({_download()}{hours})",
        suitable: f"{config[suitable].model.name}, with settings that suit this machine (1 GB to download)",
    }
    prompter.say("")
    prompter.say("Which model? Choose one of these, or give a Hugging Face id or a directory.")
    widest = max(map(len, choices))
    for name, text in choices.items():
        prompter.say(f"  {name:<{widest}}  {text}", indent=" " * (widest + 4))
    known = {name: name for name in config} | {config[name].model.name: name for name in (_DEMO, _SMOL)}

    def check(text: str) -> None:
        if text.lower() not in known:
            _check_model(text, known, _builtin(suitable))

    text = prompter.answer("Train", check, default=_DEMO if slow else _SMOL, words=[*choices])
    if text.lower() in known:
        return _builtin(known[text.lower()]), []
    return _builtin(suitable), [assignment("model.name", text)]


def _check_model(text: str, known: Iterable[str], base: Profile) -> None:
    """Raise ConfigurationError if ``text`` cannot be a model."""
    refuse_key("model.name", text)
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(f"the directory {shown(path)} is not a model: it has no config.json")
    elif text.startswith(("/", "./", "../", "~")):
        raise ConfigurationError(f"no such directory: {shown(path)}")
    elif not _HUB_ID.fullmatch(text):
        raise ConfigurationError(
            f"invalid model: {shown_value(text)}. Use a Hugging Face id, such as Qwen/Qwen2.5-0.5B-Instruct, or a "
            "directory"
        )
    elif "/" not in text and (meant := nearest(text.lower(), known)):
        raise ConfigurationError(f"unknown model {shown_value(text)}; did you mean {meant}?")
    check_answer(base, "model.name", text)


def _builtin(name: str) -> Profile:
    return profiles.read(profiles.find_builtin(name))


def _tasks(prompter: Prompter, base: Profile, settings: Sequence[str]) -> list[str]:
    """Ask for the tasks; the built-in profile's are the default."""
    default, others = task_names(base), [override(text) for text in settings]
    prompter.say("")
    prompter.say(f"Which task? For a list, run `{typed('swarmctl tasks list')}`. For your own questions, give a path.")
    text = prompter.answer(
        "Task", lambda text: check_answer(base, "tasks", text, others), default=default, words=words_of("tasks")
    )
    return [] if text == default else [assignment("tasks", text)]


def _api(prompter: Prompter, base: Profile, settings: Sequence[str]) -> list[str]:
    """Ask whether an API generates, with which model, and how much it may cost."""
    remote = [row.name for row in PROVIDERS.values() if row.chat and not row.chat.free]
    local = [row.name for row in PROVIDERS.values() if row.chat and row.chat.free]
    prompter.say("")
    prompter.say(
        "Generate with an API? The node then learns from its correct answers. Type PROVIDER or PROVIDER:MODEL."
    )
    prompter.say(f"  services: {', '.join(remote)}", indent="    ")
    prompter.say(f"  servers on this machine: {', '.join(local)}", indent="    ")
    text = prompter.answer(
        "API",
        lambda text: _check_api(text, base, settings),
        default=_NO_API[0],
        words=[_NO_API[0], *remote, *local],
    )
    if text.lower() in _NO_API:
        return []
    provider, model = split(text)
    chosen = [assignment("offload.provider", provider)]
    if model is None and _default_model(provider, base, settings) is None:
        model = prompter.answer(
            f"Model at {provider}", lambda text: _check_api(f"{provider}:{text}", base, settings, whole=True)
        )
    if model is not None:
        chosen.append(assignment("offload.model", model))
    config = _config(base, [*settings, *chosen])
    if _price(config).free:
        return chosen
    now = str(shown_setting(config.offload.limits.usd))
    prompter.say(f"The API of {provider} costs money. How much may this node spend, over all its runs?")
    cap = prompter.answer(
        "USD",
        lambda text: check_answer(base, "offload.limits.usd", text),
        default=now,
    )
    # A cap in a profile is consent to spend it. Enter is not: then a run asks.
    return chosen if cap == now else [*chosen, assignment("offload.limits.usd", cap)]


def _check_api(text: str, base: Profile, settings: Sequence[str], *, whole: bool = False) -> None:
    """Raise ConfigurationError if the answer names no API that a run could use. ``whole``: it must name a model."""
    refuse_key("offload.provider", text)
    if text.lower() in _NO_API and not whole:
        return
    if "://" in text and not whole:
        raise ConfigurationError(
            "use a name instead of a URL: one from the list, or your own, defined as [providers.NAME] in a profile"
        )
    provider, model = split(text)
    if whole and model is None:
        raise ConfigurationError(f"there is no default model at {provider}, so name one")
    known = model or _default_model(provider, base, settings)
    chosen = ["offload.provider=" + provider, "offload.model=" + (known or "any")]
    config = _config(base, [*settings, *chosen])
    check_config(config)
    if known is not None:
        _price(config)


def _default_model(provider: str, base: Profile, settings: Sequence[str]) -> str | None:
    """Return a provider's default model. Raises ConfigurationError if the provider is unknown."""
    return endpoint_of(_config(base, settings), provider, "any").chat.model


def _price(config: Config) -> Price:
    """Return the price of the API. Raises ConfigurationError if it is unknown and there is a cap."""
    endpoint, offload = first_endpoint(config), config.offload
    return bounded_price(endpoint, offload.prices, capped=offload.limits.capped, reasons=reasons(config, endpoint))


def _config(base: Profile, settings: Sequence[str]) -> Config:
    """Return the new profile's configuration. It must not depend on this shell's variables."""
    return resolve(base, [override(text) for text in settings], {}).config
