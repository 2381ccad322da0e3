"""Write the reference of commands and settings into ``docs``, or with ``--check`` say whether it is up to date."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from swarmctl import cli
from swarmctl.settings.allowed import allowed
from swarmctl.settings.schema import SettingPath, docstrings, dotted, entries, settings
from tools.completions.tree import Command, tree
from tools.completions.words import WORDS
from tools.generated import update

DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- Made by `python -m tools.reference`; do not edit. -->"
COLUMNS = "88"


def commands() -> str:
    """Return the page of commands: the help of each, as the program prints it."""
    root = tree(cli.app, WORDS)
    parts = [
        "# Commands",
        MADE,
        "What `--help` prints for every command. Exit codes: [start.md](start.md#for-scripts).",
        *(part for command in root.walk() for part in _command(command)),
    ]
    return "\n\n".join(parts) + "\n"


def _command(command: Command) -> Iterator[str]:
    yield f"## {' '.join(('swarmctl', *command.path))}"
    yield f"```text\n{_help(command.path).rstrip()}\n```"


def _help(path: Sequence[str]) -> str:
    printed = StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": COLUMNS}), redirect_stdout(printed):
        cli.run([*path, "--help"])
    return printed.getvalue()


def settings_page() -> str:
    """Return the page of settings: each with what it allows, its default and its meaning."""
    parts = [
        "# Settings",
        MADE,
        "Every setting of a profile. `swarmctl run --set KEY=VALUE` sets one for a node, `SWARMCTL_SECTION__KEY` in the "
        "environment; [start.md](start.md#profiles-and-settings) has the order of precedence. A setting without a "
        "default is unset.",
    ]
    sections: dict[str, list[str]] = {}
    for path in settings():
        sections.setdefault(dotted(path[:-1]) or path[0], []).extend(_rows(path))
    for section, rows in sections.items():
        parts.append(f"## {section}")
        parts.append("\n".join(["| setting | values | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
