"""Word lists built into the scripts: names defined in the code, and the settings for ``--set``."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hivemind_exp import providers
from hivemind_exp.model_names import BUILT_IN
from hivemind_exp.source_kinds import Kind
from hivemind_exp.supervision_settings import SupervisionConfig
from hivemind_exp.tasks.registry import names
from swarmctl.doctor.registry import groups
from swarmctl.launch.command import Target
from swarmctl.rollouts.journal import LOCAL
from swarmctl.rollouts.stats import CountKey
from swarmctl.service.command import Manager
from swarmctl.settings.profile_files import builtin_names
from swarmctl.settings.schema import docstrings, dotted, settings
from tools.completions.tree import Words, first_sentence

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
PROVIDERS = tuple(name for name, row in providers.PROVIDERS.items() if row.needs_key)
GENERATORS = ("off", *(name for name, row in providers.PROVIDERS.items() if row.chat is not None))

_LORA = "model.lora"
"""Not only a table, but also a switch."""
TASKS = tuple(names())
PROFILES = tuple(sorted(builtin_names()))
WORDS = Words(
    {
        "BUILTIN": PROFILES,
        "TASK": TASKS,
        "DEVICE": DEVICES,
        "PROVIDER": PROVIDERS,
        "PROVIDER[:MODEL]": GENERATORS,
        "GENERATOR": GENERATORS[1:],
        "SOURCE": (*map(str, Kind), LOCAL, *GENERATORS[1:]),
        "CHECK": tuple(groups()),
        "WHEN": get_args(SupervisionConfig.model_fields["restart"].annotation),
        "KEYS": CountKey._fields,
        "USD": ("unlimited",),
        "launch KIND": tuple(Target),
        "service install KIND": tuple(Manager),
    }
)


def setting_values() -> dict[str, tuple[str, ...]]:
    """Return every setting by its dotted name, with its possible values if there are only a few."""
    return {dotted(path): _values(dotted(path), field) for path, field in settings().items()} | {
        _LORA: ("true", "false")
    }


def setting_help() -> dict[str, str]:
    """Return the first sentence of each setting's docstring."""
    texts = {dotted(path): first_sentence(text) for path, text in docstrings().items()}
    return texts | {_LORA: "Train adapters (LoRA) instead of all weights"}


def _values(key: str, field: FieldInfo) -> tuple[str, ...]:
    if key == "model.name":
        return BUILT_IN
    if key == "model.device":
        return DEVICES
    if key == "tasks":
        return TASKS
    if key in ("offload.provider", "judge.provider"):
        return GENERATORS
    return tuple(dict.fromkeys(_choices(field.annotation)))


def _choices(kind: Any) -> Iterator[str]:
    """Yield the values of a type that has only a few, also of a part of a union."""
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) in (Union, UnionType, Annotated):
        for part in get_args(kind):
            yield from _choices(part)
