"""The script for bash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tools.completions.tables import Tables
from tools.completions.tree import Kind, Value
from tools.completions.words import PROFILES, setting_values

_INDENT = " " * 8


def fill(tables: Tables) -> dict[str, str]:
    """Return the text that replaces each mark in the template."""
    return {
        "enter": _cases(
            ([f"{path}:{name}" for name in names], f"path='{entered}'") for path, names, entered in tables.enters
        ),
        "takes": _cases(
            ([f"{path}:{name}" for name in names], f"kind={value.kind}{_list(value)}")
            for path, names, value in tables.takes
        ),
        "options": _cases(
            ([path], f"list='{' '.join(name for option in options for name in option.long)}'")
            for path, options in tables.options
        ),
        "arguments": _cases(
            [
                *(
                    ([f"{path}:0"], f"kind=words list='{' '.join(command.name for command in commands)}'")
                    for path, commands in tables.commands
                ),
                *(
                    ([f"{path}:{position}"], f"kind={value.kind}{_list(value)}")
                    for path, position, value in tables.arguments
                    if value.kind is not Kind.NONE
                ),
            ]
        ),
        "values": _cases(
            ([key], f"list='{' '.join(values)}'") for key, values in sorted(setting_values().items()) if values
        ),
        "settings": " \\\n            ".join(f"{key}=" for key in sorted(setting_values())),
        "profiles": " ".join(PROFILES),
    }


def _list(value: Value) -> str:
    return f" list='{' '.join(value.words)}'" if value.kind is Kind.WORDS else ""


def _cases(rows: Iterable[tuple[Sequence[str], str]]) -> str:
    return "\n".join(f"{_INDENT}{' | '.join(map(_pattern, patterns))}) {what} ;;" for patterns, what in rows)


def _pattern(text: str) -> str:
    """Quote a pattern, except for a ``*`` at its end."""
    return f"'{text[:-1]}'*" if text.endswith("*") else f"'{text}'"
