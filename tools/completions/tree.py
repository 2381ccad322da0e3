"""The command tree as plain data, with the candidates for each value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import typer.main


class Kind(StrEnum):
    """Where the candidates for a value come from."""

    NONE = "none"
    """Free text and numbers: no candidates."""
    WORDS = "words"
    """A fixed list."""
    PROFILE = "profile"
    """Built-in profiles, the user's files, and any other ``.toml`` file."""
    NODE = "node"
    """Node directories."""
    SETTING = "setting"
    """``KEY=VALUE``."""
    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Value:
    """The value that an option or argument takes."""

    kind: Kind
    name: str
    """Its name in help texts."""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One option. A flag has no value."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    multiple: bool

    @property
    def long(self) -> tuple[str, ...]:
        """The names to offer: the long ones, or the short ones if there are no long ones."""
        return tuple(name for name in self.names if name.startswith("--")) or self.names


@dataclass(frozen=True, slots=True)
class Argument:
    """One positional argument, or any number of them."""

    value: Value
    multiple: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command or group of commands."""

    path: tuple[str, ...]
    aliases: tuple[str, ...]
    """Other names that work but are not offered."""
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else ""

    def walk(self) -> list[Command]:
        """Return this command and all below it."""
        return [self, *(below for command in self.commands for below in command.walk())]


@dataclass(frozen=True, slots=True)
class Words:
    """Fixed word lists that the command tree does not contain."""

    by_metavar: Mapping[str, tuple[str, ...]]


_HELP = Option(("-h", "--help"), "Show this message and exit", None, multiple=False)


def tree(app: typer.Typer, words: Words) -> Command:
    """Return the commands of ``app``. A hidden command that is identical to a visible one is its alias."""
    return _command(typer.main.get_command(app), (), words)


def _command(command: Any, path: tuple[str, ...], words: Words) -> Command:
    below: list[Command] = []
    children = getattr(command, "commands", {})
    for name, child in sorted(children.items(), key=lambda item: item[1].hidden):
        made = _command(child, (*path, name), words)
        if not child.hidden:
            below.append(made)
            continue
        for index, visible in enumerate(below):
            if _without_path(visible) == _without_path(made):
                below[index] = replace(visible, aliases=(*visible.aliases, name))
    parameters = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    return Command(
        path=path,
        aliases=(),
        help=first_sentence(command.help or ""),
        options=(*(_option(p, path, words) for p in parameters if p.param_type_name == "option"), _HELP),
        arguments=tuple(
            Argument(_value(p, path, words), p.nargs == -1) for p in parameters if p.param_type_name == "argument"
        ),
        commands=tuple(below),
    )


def _without_path(command: Command) -> Command:
    return replace(command, path=(), aliases=(), commands=tuple(map(_without_path, command.commands)))


def first_sentence(text: str) -> str:
    """Return the first sentence of a help text, which is short enough to show beside a candidate."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].replace("\b", "").split()).split(". ")[0].removesuffix(".")


def _option(parameter: Any, path: tuple[str, ...], words: Words) -> Option:
    names = (*parameter.opts, *parameter.secondary_opts)
    value = None if parameter.is_flag else _value(parameter, path, words)
    return Option(names, first_sentence(parameter.help or ""), value, bool(parameter.multiple))


_BY_METAVAR = {
    "PROFILE": Kind.PROFILE,
    "BUILTIN": Kind.WORDS,
    **dict.fromkeys(("NODE", "TARGET", "NODE|MODEL|PROVIDER:MODEL"), Kind.NODE),
    "KEY=VALUE": Kind.SETTING,
    "TASK": Kind.WORDS,
    "DEVICE": Kind.WORDS,
    "PROVIDER": Kind.WORDS,
    "PROVIDER[:MODEL]": Kind.WORDS,
    "GENERATOR": Kind.WORDS,
    "SOURCE": Kind.WORDS,
    "CHECK": Kind.WORDS,
    "MODEL": Kind.DIRECTORY,
    "DIRECTORY": Kind.DIRECTORY,
    "DIR": Kind.DIRECTORY,
    "FILE.yaml": Kind.FILE,
    "COMMAND": Kind.FILE,  # the path of a program
    "WHEN": Kind.WORDS,
    "KEYS": Kind.WORDS,
    "USD": Kind.WORDS,
    "launch KIND": Kind.WORDS,
    "service install KIND": Kind.WORDS,
    "FILE": Kind.FILE,
}


def _value(parameter: Any, path: tuple[str, ...], words: Words) -> Value:
    """Return a parameter's value: its choices, or what its metavar stands for. Unknown metavars get no candidates."""
    metavar = parameter.metavar or parameter.name.upper()
    choices: Sequence[str] | None = getattr(parameter.type, "choices", None)
    if choices is not None:
        return Value(Kind.WORDS, metavar, tuple(choices))
    meaning = re.sub(r"^\[(.*)\]$", r"\1", metavar.removesuffix("..."))
    if "--node" in parameter.opts:
        meaning = "NODE"
    elif path[:1] in (("keys",), ("key",)) and metavar == "NAME":
        meaning = "PROVIDER"
    elif path == ("models",) and metavar == "PROVIDER":
        meaning = "GENERATOR"
    elif metavar == "KIND":  # its words depend on the command
        meaning = f"{' '.join(path)} KIND"
    kind = _BY_METAVAR.get(meaning, Kind.NONE)
    return Value(kind, metavar, words.by_metavar[meaning] if kind is Kind.WORDS else ())
