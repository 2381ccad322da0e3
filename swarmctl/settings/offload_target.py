"""What ``--offload`` names: a provider, or the address of a server, each with a model if one is given."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import get_args
from urllib.parse import urlsplit

from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import has_host
from hivemind_exp.source_kinds import POLICY_SERVER
from swarmctl.errors import UsageError

Flag = tuple[str, str, str]
"""(flag, setting, text), as in ``RunOptions.flags``."""
OFFLOAD = "--offload"
SERVE = "--serve"
_HOST = r"(?:\[[^\]\s]+\]|[^/:\s]+)(?::\d+)?"
_ADDRESS = re.compile(rf"(?P<url>https?://(?:\S*@)?{_HOST}(?:/[^:\s]*)?)(?::(?P<model>\S+))?", re.IGNORECASE)
"""May contain a user name and a password, which are refused later."""
_LONGEST_NAME = 32


def split_target(text: str) -> tuple[str, str]:
    """Split ``PROVIDER[:MODEL]`` or ``URL[:MODEL]``; the model is empty if none is given.

    A number after a host is a port, so ``http://localhost:8000:qwen`` and ``http://localhost:8000/v1:qwen`` work.
    """
    if found := _ADDRESS.fullmatch(text):
        return found["url"].rstrip("/"), found["model"] or ""
    provider, _, model = text.partition(":")
    return provider, model


def is_address(target: str) -> bool:
    """Whether a target without its model is a server's address."""
    return _ADDRESS.fullmatch(target) is not None


def provider_name(url: str) -> str:
    """Return the name of the provider at an address: always the same one, so that it finds its key and its prices.

    A built-in service keeps its name. A server gets one from its host and port, such as ``localhost-8000``.
    Raises UsageError if the address is invalid.
    """
    for row in PROVIDERS.values():
        if row.chat is not None and row.needs_key and row.base_url == url:
            return row.name
    if not has_host(url) or not {"@", "?", "#"}.isdisjoint(url):
        raise UsageError(
            "invalid server URL. Use one such as http://localhost:8000/v1, without a user name or a query",
            next="swarmctl run --offload http://HOST:PORT/v1",
        )
    parts = urlsplit(url)
    host = "localhost" if parts.hostname == "127.0.0.1" else parts.hostname or ""
    port = "" if parts.port is None else f"-{parts.port}"
    name = re.sub(r"[^a-z0-9]+", "-", f"{host}{port}").strip("-")
    name = name if name[:1].isalpha() and name not in (*PROVIDERS, "off", "local") else f"host-{name}"
    return name[:_LONGEST_NAME].rstrip("-")


def offload_flags(text: str | None, assignments: Sequence[str] = ()) -> list[Flag]:
    """Return the settings that ``--offload TEXT`` stands for. ``assignments``: those of ``--set`` beside it."""
    if not text:
        return []
    target, model = split_target(text)
    flags = [(OFFLOAD, "offload.provider", target)]
    if is_address(target):
        name = provider_name(target)
        flags = [(OFFLOAD, "offload.provider", name)]
        flags += [] if name in PROVIDERS else [(OFFLOAD, f"providers.{name}.base_url", target)]
    if model or not any(each.startswith("offload.model=") for each in assignments):
        flags.append((OFFLOAD, "offload.model", model))  # even if empty, or another provider's model would stay
    return flags


def serve_flags(command: str | None) -> list[Flag]:
    """Return the settings of ``--serve COMMAND``: the node starts a server and pushes its weights to it."""
    if command is None:
        return []
    engine = served_engine(command)
    settings = {"offload.serving.command": command, "offload.provider": engine, "offload.kind": POLICY_SERVER}
    return [(SERVE, setting, text) for setting, text in settings.items()]


def served_engine(command: str) -> str:
    """Return the engine that a command starts, by the name of its program or module; vllm if none is named."""
    from hivemind_exp.serving_settings import InferenceEngineName  # imports pydantic

    try:
        names = [PurePath(word).name for word in shlex.split(command)]
    except ValueError:  # the setting's own check reports it
        names = []
    known: tuple[str, ...] = get_args(InferenceEngineName)
    return next((engine for name in names for engine in known if engine in name), "vllm")


def typed_address(flags: Sequence[Flag]) -> tuple[str, str] | None:
    """Return the name and the address of the server that ``--offload URL`` names; None if it names none."""
    for flag, setting, text in flags:
        if flag == OFFLOAD and setting.startswith("providers."):
            return setting.split(".")[1], text
    return None
