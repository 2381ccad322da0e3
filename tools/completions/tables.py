"""The command tree as tables, from which the scripts for bash and fish are generated.

A path is a command's names separated by spaces. The path of ``swarmctl`` itself is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.completions.tree import Command, Option, Value


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables that the scripts look up."""

    enters: tuple[tuple[str, tuple[str, ...], str], ...]
    """(path, names, path of the command that these names lead to)."""
    takes: tuple[tuple[str, tuple[str, ...], Value], ...]
    """(path, names of an option, value that it takes)."""
    options: tuple[tuple[str, tuple[Option, ...]], ...]
    commands: tuple[tuple[str, tuple[Command, ...]], ...]
    arguments: tuple[tuple[str, str, Value], ...]
    """(path, position from 0 or ``*``, value in that position)."""


def tables(root: Command) -> Tables:
    """Return the tables of a command tree."""
    every = root.walk()
    return Tables(
        enters=tuple(
            (path_of(command), (child.name, *child.aliases), path_of(child))
            for command in every
            for child in command.commands
        ),
        takes=tuple(
            (path_of(command), option.names, option.value)
            for command in every
            for option in command.options
            if option.value is not None
        ),
        options=tuple((path_of(command), command.options) for command in every),
        commands=tuple((path_of(command), command.commands) for command in every if command.commands),
        arguments=tuple(row for command in every for row in _arguments(command)),
    )


def path_of(command: Command) -> str:
    """Return a command's path in the tables' format."""
    return " ".join(command.path)


def _arguments(command: Command) -> Iterator[tuple[str, str, Value]]:
    for position, argument in enumerate(command.arguments):
        yield path_of(command), "*" if argument.multiple else str(position), argument.value
