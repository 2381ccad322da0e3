"""Readable TOML: a configuration, optionally with the origin of each value next to it, or a new profile."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tomlkit

from swarmctl.settings.resolve import Resolved
from swarmctl.settings.schema import SettingPath, docstrings, dotted, flatten, settings
from swarmctl.terminal.safe_text import without_keys

TASKS: SettingPath = ("tasks",)
_COLUMNS = 96
"""Width of comments, so that an editor in a terminal of 100 columns does not wrap them."""


def as_toml(resolved: Resolved, *, origins: bool) -> str:
    """Return the whole configuration as TOML. Unset values are left out."""
    config = without_keys(resolved.config.model_dump(mode="json", exclude_none=True))
    description = resolved.profile.description
    lines = [f"description = {_toml(description)}"] if description else []
    lines += _lines(dict(flatten(config)), remark=lambda path: f" # {resolved.origin(dotted(path))}" if origins else "")
    return "\n".join(lines).lstrip("\n") + "\n"


def rendered(values: Mapping[SettingPath, Any], *, head: Sequence[str], description: str, extends: str | None) -> str:
    """Return a new profile, in the order of the configuration. Values that are None are left out."""
    paths = sorted((path for path, value in values.items() if value is not None), key=_place)
    lines = [f"# {line}".rstrip() for line in head]
    lines.append(f"description = {_toml(description)}")
    if extends is not None:
        lines.append(f"extends = {_toml(extends)}")
    lines += _lines({path: values[path] for path in paths}, comment=lambda path: docstrings().get(path, ""))
    return "\n".join(lines) + "\n"


def wrapped(text: str) -> list[str]:
    """Return the lines of a comment without ``#``: its words, on as few lines as a profile has room for."""
    return textwrap.wrap(text, _COLUMNS - len("# "), break_long_words=False, break_on_hyphens=False)


def _lines(
    values: Mapping[SettingPath, Any],
    *,
    comment: Callable[[SettingPath], str] = lambda _: "",
    remark: Callable[[SettingPath], str] = lambda _: "",
) -> Iterator[str]:
    """Yield the lines of values, table by table, each with its ``comment`` above and its ``remark`` at the end."""
    for table in dict.fromkeys(path if value == {} else path[:-1] for path, value in values.items()):
        if table:
            yield from ("", f"[{'.'.join(map(_key, table))}]")
        for path, value in values.items():
            if path == TASKS and not table:
                yield from _tasks(value, remark(path))
            elif path[:-1] == table and value != {}:
                yield from (f"# {line}" for line in wrapped(comment(path)))
                yield f"{_key(path[-1])} = {_toml(value)}{remark(path)}"


def _tasks(tasks: Sequence[Mapping[str, Any]], remark: str) -> Iterator[str]:
    """Yield a list of names if tasks have nothing but names, else one table per task."""
    if all(task.keys() == {"name"} for task in tasks):
        yield from ("", f"tasks = {_toml([task['name'] for task in tasks])}")
        return
    for task in tasks:
        yield from ("", f"[[tasks]]{remark}")
        yield from (f"{_key(key)} = {_toml(value)}" for key, value in task.items() if value != {})


def _place(path: SettingPath) -> tuple[int, int]:
    """Return a sort key: by table, as TOML requires, in the order of the configuration; unknown settings last."""
    known = list(settings())
    tables = list(dict.fromkeys(path[:-1] for path in known))
    table = tables.index(path[:-1]) if path[:-1] in tables else len(tables)
    return (-1 if len(path) == 1 else table, known.index(path) if path in known else len(known))


def _key(name: str) -> str:
    return str(tomlkit.key(name).as_string())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return str(table.as_string())
    return str(tomlkit.item(value).as_string())
