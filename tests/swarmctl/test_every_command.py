"""No command is missing from the table of commands that are run in broken surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from swarmctl.cli import app
from tests.support.every_command import COMMANDS


def names(command: Any, *path: str) -> Iterator[str]:
    """Yield every command below ``command``."""
    for name, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield from names(each, *path, name)
    if not getattr(command, "commands", {}):
        yield " ".join(path)


def test_no_command_is_missing() -> None:
    tried = [f"{command} " for command in COMMANDS]
    missing = [name for name in names(get_command(app)) if not any(each.startswith(f"{name} ") for each in tried)]
    assert not missing, f"add a call of {', '.join(missing)} to COMMANDS in tests/support/every_command.py"
