"""The settings by name, and texts from a command line or the environment as values of their type."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hivemind_exp.config import Config

SettingPath = tuple[str, ...]
_WHOLE = ("tasks", "providers", "prices")
"""Settings that are lists or named tables: one value as far as flags and variables go."""


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the table a field holds, if it holds one (``lora`` may also be unset)."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _walk(model: type[BaseModel], prefix: SettingPath) -> Iterator[tuple[SettingPath, FieldInfo]]:
    for name, field in model.model_fields.items():
        table = None if name in _WHOLE else _section(field)
        if table is None:
            yield (*prefix, name), field
        else:
            yield from _walk(table, (*prefix, name))


@cache
def settings() -> dict[SettingPath, FieldInfo]:
    """Return every setting of the configuration, by its path."""
    return dict(_walk(Config, ()))


def _takes_text(path: SettingPath) -> bool:
    field = settings().get(path)
    # A list of texts is no text.
    return field is not None and str in (field.annotation, *get_args(field.annotation)) and not _is_list(field)


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def parse(text: str, path: SettingPath) -> Any:
    """Return what ``text`` means for the setting at ``path``: a TOML value where it is one, else the text.

    Where the setting is a text, 12e3 or 2024-01-01 stay what was typed (a commit may look like a number).
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if document.keys() != {"value"}:
        return text
    value = document["value"]
    return text if _takes_text(path) and not isinstance(value, str) else value


def dotted(path: SettingPath) -> str:
    """Return a path as it is written after ``--set``."""
    return ".".join(path)


def flatten(values: dict[str, Any], prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Yield the values of nested tables with their paths. Lists and empty tables are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value
