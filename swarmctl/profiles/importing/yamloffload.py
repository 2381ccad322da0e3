"""What the YAML of RL Swarm's offloading branch says of generating by an API, in settings of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.hosts import host_of
from swarmctl.profiles.importing.result import NO_COUNTERPART, Mapped
from swarmctl.profiles.importing.rl_swarm import OFFLOAD, Carry, text

_OPENAI = "openai"


def is_elsewhere(settings: Mapping[str, Any]) -> bool:
    """Whether ``openai_*`` means a server of somebody else's, whose key OpenAI must not see."""
    url = settings.get("openai_base_url")
    return isinstance(url, str) and bool(url) and host_of(url) != host_of(PROVIDERS[_OPENAI].base_url)


def generation(settings: Mapping[str, Any], result: Mapped) -> None:
    """``openai_*`` counts only where ``use_openai_api`` is on."""
    given = [key for key in OFFLOAD if key in settings]
    if settings.get("use_openai_api") is not True:
        for key in given:
            off = key == "use_openai_api"
            result.leave(key, NO_COUNTERPART, "off is the default" if off else "use_openai_api is not on")
    elif is_elsewhere(settings):
        for key in given:
            result.leave(
                key, NO_COUNTERPART, "a server of your own is a table [providers.NAME] that offload.provider names"
            )
    else:
        _carry(settings, result)


def _carry(settings: Mapping[str, Any], result: Mapped) -> None:
    result.carry("use_openai_api", Carry("offload.provider", lambda _: _OPENAI), True)
    if "openai_model_name" in settings:
        result.carry("openai_model_name", Carry("offload.model", text), settings["openai_model_name"])
    if "openai_base_url" in settings:
        result.leave("openai_base_url", NO_COUNTERPART, f"{_OPENAI} is always at {PROVIDERS[_OPENAI].base_url}")
