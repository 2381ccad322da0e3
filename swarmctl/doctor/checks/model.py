"""The profile's model, as far as it can be known without torch: its shape, and where that was read."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hivemind_exp.errors import KeyProblem
from hivemind_exp.models.hardware import detect_hardware
from hivemind_exp.models.memory import TINY, Shape, count_weights
from swarmctl.doctor.check import Context
from swarmctl.doctor.web import ask_hub
from swarmctl.keys.finder import Key, KeyFinder
from swarmctl.keys.http_client import HttpAnswer, Unanswered
from swarmctl.storage import hub_cache as places
from swarmctl.terminal.prompter import Prompter


@dataclass(frozen=True, slots=True)
class Known:
    """A model's shape, or why it is not known."""

    shape: Shape | None
    text: str


def shape(context: Context) -> Known:
    """Return what is known of the model of the profile."""
    return context.facts.get("model", lambda: _find(context))


def _find(context: Context) -> Known:
    wanted = context.config.model
    if wanted.name == "tiny":
        return Known(Shape.read(TINY), "built on the spot")
    directory = places.local_directory(wanted.name)
    where = "local directory"
    if directory is None:
        directory = places.snapshot(context.environment, wanted.name, wanted.revision)
        where = "cached"
    if directory is not None:
        try:
            read = json.loads((directory / "config.json").read_bytes())
        except (OSError, ValueError):
            return Known(None, f"{wanted.name} has no config.json that can be read")
        return _shaped(read, count_weights(places.weights(directory)), where)
    if context.offline or places.offline(context.environment):
        return Known(None, f"{wanted.name} is not on this machine")
    try:
        answer = ask_for_config(context, "GET")
        read = json.loads(answer.body) if answer.status == 200 else None
    except (KeyProblem, Unanswered, ValueError):
        read = None
    return (
        _shaped(read, None, "on the hub") if read else Known(None, f"the hub does not give {wanted.name}'s config.json")
    )


def _shaped(read: Mapping[str, Any], parameters: int | None, where: str) -> Known:
    found = Shape.read(read, parameters)
    kind = read.get("model_type", "unknown")
    return Known(
        found, where if found else f"the size of a model of type {kind!r} does not follow from its config.json"
    )


def ask_for_config(context: Context, method: str) -> HttpAnswer:
    """Ask the hub for the config.json of the profile's model. Raises Unanswered."""
    wanted = context.config.model
    repository, revision = quote(wanted.name), quote(wanted.revision or "main", safe="")
    url = f"{places.endpoint(context.environment)}/{repository}/resolve/{revision}/config.json"
    key = hub_key(context)
    return ask_hub(method, url, token=key.value if key and not key.rival(context.environment) else None)


def hub_key(context: Context) -> Key | None:
    """Return the hub's token as a run would find it, without opening a keyring; None where there is none."""
    return next(iter(KeyFinder(Prompter(silent=True), context.environment).look("huggingface")), None)


def device_kind(wanted: str) -> str:
    """Return cuda, mps, xpu or cpu: what ``auto`` will most likely mean, by what the drivers tell."""
    kind = wanted.partition(":")[0]
    if kind != "auto":
        return kind
    hardware = detect_hardware()
    if hardware.nvidia is not None or hardware.amd:
        return "cuda"
    return "mps" if hardware.apple and sys.platform == "darwin" else "cpu"
