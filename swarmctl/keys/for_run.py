"""Which keys a run needs, and where each comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, KeyProblem
from hivemind_exp.model_names import BUILT_IN
from hivemind_exp.offload.judge import endpoints_of
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.finder import ADDRESSES, Key, KeyFinder, KeyLocation, key_locations
from swarmctl.keys.set import SetOptions, set_key
from swarmctl.storage.hub_cache import offline
from swarmctl.terminal.prompter import Prompter

_PUSHING = "pushing to hub.repo needs a token with write access"


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of a run, and the lines to print about them."""

    secrets: Mapping[str, str] = field(repr=False)
    lines: tuple[str, ...]


def _provider_keys(config: Config, finder: KeyFinder, prompter: Prompter) -> list[Key]:
    """Return the keys of the providers that the run may use. On a terminal, ask for a missing key.

    Raises KeyProblem if a provider needs a key and none is available.
    """
    pin = config.offload.key
    found: dict[str, Key | None] = {}
    for endpoint in endpoints_of(config):
        if endpoint.name in found:
            continue
        missing = endpoint.needs_key and pin == "auto" and not key_locations(endpoint.name, finder.environment)
        if missing and prompter.can_ask:
            prompter.say(f"No key for {endpoint.name} yet.")
            ask_for_key(endpoint)
        found[endpoint.name] = finder.find_for(endpoint, pin)
    return [key for key in found.values() if key is not None]


def ask_for_key(endpoint: Endpoint) -> None:
    """Ask for a provider's key and save it, like ``keys set``. Raises NodeError if it is not saved."""
    set_key(endpoint.name, SetOptions(url=None if endpoint.name in PROVIDERS else endpoint.base_url))


def located_keys(config: Config, environment: Mapping[str, str]) -> list[tuple[Endpoint, KeyLocation | None]]:
    """Return the providers of a run that need a key, each with the location that has it or None. Reads no key."""
    pin = config.offload.key
    endpoints = {each.name: each for each in endpoints_of(config) if each.needs_key}
    found = {
        name: [spot for spot in key_locations(name, environment) if pin in ("auto", spot.place)] for name in endpoints
    }
    return [(endpoint, next(iter(found[name]), None)) for name, endpoint in endpoints.items()]


def missing_keys(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the providers that a run could not use for lack of a key, each with the command that saves one.

    Reads no key.
    """
    return {each.name: each.key_command for each, spot in located_keys(config, environment) if spot is None}


def needed(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Return the names of the keys that a run may need for the model hub and for reporting metrics."""
    names = []
    on_hub = config.model.name not in BUILT_IN and not Path(config.model.name).expanduser().is_dir()
    if config.hub.repo or (on_hub and not offline(environment)):
        names.append("huggingface")
    if "wandb" in config.report.to and environment.get("WANDB_MODE") not in ("offline", "disabled"):
        names.append("wandb")
    return names


def keys_for(config: Config, prompter: Prompter, environment: Mapping[str, str]) -> RunKeys:
    """Read the keys of a run. A missing key is not always an error: models may be public, and wandb has its own login.

    Raises KeyProblem if a key exists but cannot be read, or if a required key is missing.
    """
    if config.hub.repo and offline(environment):
        raise ConfigurationError("hub.repo is set, but HF_HUB_OFFLINE prevents pushing", next="unset HF_HUB_OFFLINE")
    finder = KeyFinder(prompter, environment)
    keys, lines = [], []
    for name in needed(config, environment):
        must = bool(config.hub.repo) and name == "huggingface"
        key = finder.find(name)
        if key is None:
            if must:
                raise KeyProblem(f"{_PUSHING}, but no token was found", next=f"swarmctl keys set {name}")
            continue
        elsewhere, variable = key.rival(environment), ADDRESSES[name]
        if elsewhere and must:
            text = f"{_PUSHING}, but the token found belongs to {key.origin} and is not sent to {elsewhere}"
            raise KeyProblem(text, next=f"unset {variable}")
        if elsewhere:
            lines.append(f"warning: key {name} is not used: it is for {key.origin}, but ${variable} is {elsewhere}.")
        else:
            keys.append(key)
            lines.append(_line(key))
    found = _provider_keys(config, finder, prompter)
    keys += found
    lines += map(_line, found)
    return RunKeys({key.name: key.value for key in keys}, tuple(lines))


def _line(key: Key) -> str:
    return f"Key {key.name} {key.reason}."
