"""The script for fish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tools.completions.tables import Tables
from tools.completions.tree import Kind, Value
from tools.completions.words import PROFILES, setting_help, setting_values

_CASE = " " * 8
_BODY = " " * 12


def fill(tables: Tables) -> dict[str, str]:
    """Return the text that replaces each mark in the template."""
    return {
        "enter": _cases(
            ([f"{path}:{name}" for name in names], f"set path {_quoted(entered)}")
            for path, names, entered in tables.enters
        ),
        "takes": _cases(([f"{path}:{name}" for name in names], _wanted(value)) for path, names, value in tables.takes),
        "options": _cases(
            ([path], _list((name, option.help) for option in options for name in option.long))
            for path, options in tables.options
        ),
        "arguments": _cases(
            [
                *(
                    ([f"{path}:0"], _list((command.name, command.help) for command in commands))
                    for path, commands in tables.commands
                ),
                *(
                    ([f"{path}:{position}"], _wanted(value))
                    for path, position, value in tables.arguments
                    if value.kind is not Kind.NONE
                ),
            ]
        ),
        "values": _cases(
            ([key], f"set list {' '.join(values)}") for key, values in sorted(setting_values().items()) if values
        ),
        "settings": " \\\n            ".join(
            f"{_entry(f'{key}=', help)}" for key, help in sorted(setting_help().items())
        ),
        "profiles": " ".join(PROFILES),
    }


def _wanted(value: Value) -> str:
    words = f"\n{_BODY}set list {' '.join(value.words)}" if value.words else ""
    return f"set kind {value.kind}{words}"


def _list(entries: Iterable[tuple[str, str]]) -> str:
    return "set list " + " \\\n                ".join(_entry(*entry) for entry in entries)


def _entry(word: str, help: str) -> str:
    """Return a word and its description, separated by a tab as fish expects."""
    return f"{word}\\t{_quoted(help)}" if help else word


def _cases(rows: Iterable[tuple[Sequence[str], str]]) -> str:
    return "\n".join(f"{_CASE}case {' '.join(map(_quoted, patterns))}\n{_BODY}{what}" for patterns, what in rows)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
