"""Every command that a document shows is one that exists: its words, its options, its settings, its profiles."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import override
from swarmctl.settings.schema import settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:\.venv/bin/)?swarmctl [^`]+)`")
_COMMAND = re.compile(r"\s*(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?swarmctl (.*)")
_SHELL = re.compile(r"\s[|<>]\s?|\s&&\s")


def commands(document: Path) -> list[list[str]]:
    """Return the arguments of each ``swarmctl`` in a document's blocks and sentences."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()] + _INLINE.findall(text)
    found = []
    for line in lines:
        command = _COMMAND.match(line)
        if command:
            found.append(shlex.split(_SHELL.split(command[1])[0], comments=True))
    return found


def shown() -> list[tuple[str, list[str]]]:
    return [(document.name, words) for document in DOCUMENTS for words in commands(document)]


@pytest.mark.parametrize(("document", "arguments"), shown(), ids=str)
def test_a_command_that_is_shown_exists(
    document: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for several in _alternatives(arguments):
        assert cli.run([*several, "--help"]) == Exit.DONE, capsys.readouterr().err
        for option, value in pairwise(several):
            if option == "--set" and value != "KEY=VALUE":
                assert override(value).path in settings(), value
            if option in ("--profile", "-p", "--from"):
                assert value in profiles.builtin_names(), value


def _alternatives(arguments: list[str]) -> list[list[str]]:
    """Return what ``keys set · list · test`` stands for: one command for each of the last words."""
    if "·" not in arguments:
        return [arguments]
    first = arguments.index("·") - 1
    return [[*arguments[:first], word] for word in arguments[first:] if word != "·"]


def test_documents_have_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 12
