"""Which keys a run needs, and where each of them comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, KeyProblem
from hivemind_exp.offload.endpoints import Endpoint, chain, is_offloaded
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.hosts import host_of
from swarmctl.keys.keystore import Key, Keystore
from swarmctl.keys.locations import LocationKind, key_locations
from swarmctl.keys.set import SetOptions, set_key
from swarmctl.storage.hub_cache import offline
from swarmctl.terminal.prompter import Prompter

_ADDRESS = {"huggingface": "HF_ENDPOINT", "wandb": "WANDB_BASE_URL"}
"""What makes these libraries talk to another host."""


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of a run, and what is to be said of them."""

    secrets: Mapping[str, str]
    lines: tuple[str, ...]

    def __repr__(self) -> str:
        return f"RunKeys({', '.join(self.secrets)})"


def provider_keys(config: Config, store: Keystore, prompter: Prompter) -> list[Key]:
    """Return the keys of the providers that the run may ask; one that is missing is asked for on a terminal.

    Raises KeyProblem where a provider wants a key and none can be had.
    """
    if not is_offloaded(config):
        return []
    pin = None if config.offload.key == "auto" else LocationKind(config.offload.key)
    found: dict[str, Key] = {}
    for endpoint in chain(config):
        if endpoint is None or endpoint.name in found:
            continue
        key = _provider_key(endpoint, store, prompter, pin)
        if key is not None:
            found[endpoint.name] = key
    return list(found.values())


def _provider_key(endpoint: Endpoint, store: Keystore, prompter: Prompter, pin: LocationKind | None) -> Key | None:
    if not endpoint.needs_key:
        return (
            store.find(endpoint.name, base_url=endpoint.base_url)
            if key_locations(endpoint.name, store.environment)
            else None
        )
    key = store.find(endpoint.name, base_url=endpoint.base_url, pin=pin)
    if key is None and prompter.can_ask:
        prompter.say(f"There is no key for {endpoint.name} yet.")
        url = None if endpoint.name in PROVIDERS else endpoint.base_url
        set_key(endpoint.name, SetOptions(url=url))
        key = store.find(endpoint.name, base_url=endpoint.base_url, pin=pin)
    if key is None:
        own = "" if endpoint.name in PROVIDERS else f" --host {endpoint.base_url}"
        raise KeyProblem(f"there is no key for {endpoint.name}", next=f"swarmctl keys set {endpoint.name}{own}")
    return key


def needed(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Return the names of the keys that a run may need: for the model's hub, and for where its metrics go."""
    names = []
    on_hub = config.model.name != "tiny" and not Path(config.model.name).expanduser().is_dir()
    if config.hub.repo or (on_hub and not offline(environment)):
        names.append("huggingface")
    if "wandb" in config.report.to and environment.get("WANDB_MODE") not in ("offline", "disabled"):
        names.append("wandb")
    return names


def required(config: Config) -> dict[str, str]:
    """Return the names of the keys that a run cannot do without, each with the reason."""
    return {"huggingface": "hub.repo is set, and pushing needs a token that may write"} if config.hub.repo else {}


def keys_for(config: Config, prompter: Prompter, environment: Mapping[str, str]) -> RunKeys:
    """Read the keys of a run. One that is nowhere may be no error: models may be public, wandb has its own login.

    Raises KeyProblem where one is there and cannot be had, and where one that is required is nowhere.
    """
    store, must = Keystore(prompter, environment), required(config)
    secrets, lines = {}, []
    if config.hub.repo and offline(environment):
        raise ConfigurationError("hub.repo is set, and HF_HUB_OFFLINE forbids pushing", next="unset HF_HUB_OFFLINE")
    for name in needed(config, environment):
        key = store.find(name)
        if key is None:
            if name in must:
                raise KeyProblem(f"{must[name]}; there is none", next=f"swarmctl keys set {name}")
            continue
        elsewhere = _elsewhere(key, environment)
        if elsewhere and name in must:
            raise KeyProblem(
                f"{must[name]}; the one that is there belongs to {key.host} and is not sent to {elsewhere}",
                next=f"unset {_ADDRESS[name]}",
            )
        if elsewhere:
            lines.append(
                f"warning: key {name} belongs to {key.host} and is kept back: ${_ADDRESS[name]} is {elsewhere}"
            )
            continue
        secrets[name] = key.value
        lines.append(f"{key.sentence[:1].upper()}{key.sentence[1:]}.")
    for key in provider_keys(config, store, prompter):
        secrets[key.name] = key.value
        lines.append(f"{key.sentence[:1].upper()}{key.sentence[1:]}.")
    return RunKeys(secrets, tuple(lines))


def _elsewhere(key: Key, environment: Mapping[str, str]) -> str | None:
    """Return the host that would get the key instead of its own.

    A key in the environment was put there by whoever put the address there, and is meant for it.
    """
    address = environment.get(_ADDRESS[key.name])
    if not address or key.spot.place in (LocationKind.KEY_FILE, LocationKind.ENVIRONMENT, LocationKind.CREDENTIALS):
        return None
    host = host_of(address)
    return host if host != host_of(PROVIDERS[key.name].base_url) else None
