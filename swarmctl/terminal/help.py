"""Command groups, and the headings of the command list in ``swarmctl --help``."""

import re
import sys
from itertools import chain
from typing import Any

import typer
from typer.core import TyperGroup

from swarmctl.terminal.safe_text import folded
from swarmctl.terminal.streams import width_of

HelpFormatter: Any = TyperGroup.context_class.formatter_class  # this type is not public

HEADINGS = {
    "Start": ("init", "run", "stop", "restart", "doctor", "keys", "models", "tasks", "profiles"),
    "Watch": ("status", "attach", "logs", "report", "rollouts"),
    "Use": ("sample", "chat", "eval", "export", "replay"),
    "Manage": ("fork", "rename", "rm", "backup", "restore", "upgrade", "quarantine", "service"),
    "Swarm": ("swarm", "identity", "launch"),
    "Shell": ("completion",),
}
_WHOLE = 1000
"""Maximum length of a help line, longer than any. Otherwise Typer cuts sentences in the middle."""

_NO_BRACES = str.maketrans("", "", "{}")
_UNBROKEN = str.maketrans("-", "\N{NON-BREAKING HYPHEN}")
_BREAKABLE = str.maketrans("\N{NON-BREAKING HYPHEN}\N{NO-BREAK SPACE}", "- ")
_RANGE = re.compile(r"(?:  \[|(;) )[\d.<=]*x[<>=][<>=\d.]*(?(1)|\])")
"""Typer's note on a number: ``[x>=0]`` alone, or ``; x>=0`` behind a default."""


class _Formatter(HelpFormatter):  # type: ignore[misc]
    """Wraps help between words on any terminal, examples included."""

    width: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._room = (width_of(sys.stdout) or _WHOLE) - 1
        self.width = min(self.width, max(30, self._room))

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the usage line, with required arguments in capitals only."""
        super().write_usage(prog, args.translate(_NO_BRACES), prefix)

    def write_dl(self, rows: Any, *more: Any, **options: Any) -> None:
        """Write names and descriptions, without the ranges of numbers: an error names them."""
        super().write_dl([(name, _unbroken(_RANGE.sub("", text))) for name, text in rows], *more, **options)

    def write_text(self, text: str) -> None:
        """Write a paragraph, wrapped between words only."""
        super().write_text(_unbroken(text))

    def getvalue(self) -> str:
        """Return the whole text."""
        lines = [
            [line] if len(line) <= self._room else folded(line, max(30, self._room), indent="        ")
            for line in super().getvalue().translate(_BREAKABLE).split("\n")
        ]
        return "\n".join(chain.from_iterable(lines))


def _unbroken(text: str) -> str:
    """Return a text whose file names, options and defaults are not wrapped in the middle."""
    return text.replace("  [", " [").replace("[default: ", "[default:\N{NO-BREAK SPACE}").translate(_UNBROKEN)


class GroupedCommands(TyperGroup):
    """Lists commands with untruncated descriptions; the top-level ones are grouped under headings."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for each in (self, *self.commands.values()):
            # Keeps the line breaks of examples.
            each.help = (each.help or "").replace("\n\nExamples:\n", "\n\n\b\nExamples:\n")
            each.context_class = type("Context", (each.context_class,), {"formatter_class": _Formatter})

    # Typer's own types for these are not public.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the command lists."""
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        lines = {name: command.get_short_help_str(_WHOLE) for name, command in shown.items()}
        widest = max(map(len, lines), default=0)
        headings = HEADINGS if ctx.parent is None else {}
        placed = {name for names in headings.values() for name in names}
        for heading, names in [*headings.items(), ("Commands", [name for name in lines if name not in placed])]:
            rows = [(name.ljust(widest), lines[name]) for name in names if name in lines]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def command_group(help: str) -> typer.Typer:
    """Return a group that prints its help if no command is given."""
    return typer.Typer(
        help=help, cls=GroupedCommands, rich_markup_mode=None, invoke_without_command=True, callback=_print_help
    )


def _print_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
