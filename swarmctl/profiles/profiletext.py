"""A profile as text for people: every setting under the docstring it has in the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit

from swarmctl.settings.schema import Path, settings

TASKS: Path = ("tasks",)


def rendered(values: Mapping[Path, Any], *, head: Sequence[str], description: str, extends: str | None) -> str:
    """Return TOML in the order of the configuration. Values that are None have no line."""
    paths = sorted((path for path, value in values.items() if value is not None), key=_place)
    lines = [f"# {line}".rstrip() for line in head]
    lines.append(f"description = {_toml(description)}")
    if extends is not None:
        lines.append(f"extends = {_toml(extends)}")
    if TASKS in paths:
        lines += _tasks(values[TASKS])
    section: Path = ()
    for path in paths:
        if path == TASKS:
            continue
        if path[:-1] != section:
            section = path[:-1]
            lines += ["", f"[{'.'.join(map(_key, section))}]"]
        lines += [f"# {line}" for line in _docstring(path)]
        lines.append(f"{_key(path[-1])} = {_toml(values[path])}")
    return "\n".join(lines) + "\n"


def head_comment(text: str) -> list[str]:
    """Return the lines of the comment that a file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def _place(path: Path) -> tuple[int, int]:
    """Order settings by table, as TOML wants it, and both as the configuration has them; unknown ones go last."""
    known = list(settings())
    tables = list(dict.fromkeys(path[:-1] for path in known))
    table = tables.index(path[:-1]) if path[:-1] in tables else len(tables)
    return (-1 if len(path) == 1 else table, known.index(path) if path in known else len(known))


def _key(name: str) -> str:
    return str(tomlkit.key(name).as_string())


def _docstring(path: Path) -> list[str]:
    field = settings().get(path)
    return (field.description or "").splitlines() if field else []


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A list of names where that says all, else a table each."""
    if all(task.keys() == {"name"} for task in tasks):
        return ["", f"tasks = {_toml([task['name'] for task in tasks])}"]
    lines = []
    for task in tasks:
        lines += ["", "[[tasks]]", *(f"{key} = {_toml(value)}" for key, value in task.items())]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return str(table.as_string())
    return str(tomlkit.item(value).as_string())
