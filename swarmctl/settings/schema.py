"""All settings by name, and the conversion of texts from the command line or the environment to values."""

import ast
import inspect
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hivemind_exp import config

SettingPath = tuple[str, ...]
_WHOLE = ("tasks", "providers", "prices")
"""Settings that are lists or named tables. Flags and variables set them as a whole."""


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the table that a field holds, if it holds one (``lora`` may also be unset)."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _walk(model: type[BaseModel], prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, str, FieldInfo]]:
    for name, field in model.model_fields.items():
        table = None if name in _WHOLE else _section(field)
        if table is None:
            yield (*prefix, name), model.__name__, field
        else:
            yield from _walk(table, (*prefix, name))


def _tables(kind: object) -> Iterator[type[BaseModel]]:
    """Yield a model and the models of all its tables. ``kind`` can also be a type with models inside."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        inside: Iterable[object] = (field.annotation for field in kind.model_fields.values())
    else:
        inside = get_args(kind)
    for part in inside:
        yield from _tables(part)


@cache
def settings() -> dict[SettingPath, FieldInfo]:
    """Return every setting of the configuration, by its path."""
    return {path: field for path, _, field in _walk(config.Config)}


@cache
def _written() -> dict[tuple[str, str], str]:
    """Return the docstrings of the configuration's fields, by class and field.

    Few commands show them, and pydantic's own way (``use_attribute_docstrings``) adds 25 ms to every start.
    """
    written: dict[tuple[str, str], str] = {}
    modules = {sys.modules[table.__module__] for table in _tables(config.Config)}
    body = [statement for module in modules for statement in ast.parse(inspect.getsource(module)).body]
    for table in (statement for statement in body if isinstance(statement, ast.ClassDef)):
        for statement, following in pairwise(table.body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    written[table.name, name] = inspect.cleandoc(text)
    return written


def _sections(model: type[BaseModel], prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        table = None if name in _WHOLE else _section(field)
        if table is not None:
            yield (*prefix, name), table
            yield from _sections(table, (*prefix, name))


def sections() -> dict[SettingPath, type[BaseModel]]:
    """Return the model of each section of the configuration, by its path."""
    return dict(_sections(config.Config))


def docstrings() -> dict[SettingPath, str]:
    """Return the docstring of each setting."""
    return {path: _written().get((table, path[-1]), "") for path, table, _ in _walk(config.Config)}


def field_docstrings(table: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field of a table of the configuration."""
    return {name: _written().get((table.__name__, name), "") for name in table.model_fields}


def parse(text: str, path: SettingPath) -> Any:
    """Return ``text`` as a value for the setting at ``path``: parsed as TOML if possible, else the text itself.

    For a setting that takes a string, 12e3 and 2024-01-01 stay strings (a commit may look like a number).
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if document.keys() != {"value"}:
        return text
    value = document["value"]
    kind = settings()[path].annotation if path in settings() else None
    takes_text = str in (kind, *get_args(kind)) and get_origin(kind) not in (list, dict)  # list[str] is no text
    return text if takes_text and not isinstance(value, str) else value


def dotted(path: SettingPath) -> str:
    """Return a path as it is written in ``--set``."""
    return ".".join(path)


def flatten(values: dict[str, Any], prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Yield the values of nested tables with their paths. Lists and empty tables count as values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value
