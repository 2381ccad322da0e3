"""Every ``swarmctl`` command that an error suggests can be parsed."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from itertools import pairwise

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.settings.resolve import override
from swarmctl.settings.schema import settings
from tests.support.command_line import ROOT

_ANY = "1"
"""Stands for a value that is only known when the error occurs."""


def _text(node: ast.expr) -> str | None:
    """Return a string literal with its placeholders filled in; None for another expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else _ANY for part in node.values)
    return None


def suggestions() -> Iterator[str]:
    """Yield each ``swarmctl`` command that is passed as ``next``.

    Commands whose subcommand is not literal are left out.
    """
    for path in sorted([*ROOT.glob("swarmctl/**/*.py"), *ROOT.glob("hivemind_exp/**/*.py")]):
        code = path.read_text(encoding="utf-8")
        if "next=" not in code:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.keyword) and node.arg == "next":
                choices = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
                for text in filter(None, map(_text, choices)):
                    if not text.startswith("swarmctl ") or _ANY in text.split()[1:3]:
                        continue
                    yield text


def test_every_suggested_command_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    found = sorted(set(suggestions()))  # in the test: reading the code when tests are collected delays every process
    assert len(found) > 50
    for text in found:
        words = shlex.split(text)
        assert cli.run([*words[1:], "--help"]) == Exit.DONE, capsys.readouterr().err
        for option, value in pairwise(words):
            if option == "--set" and not value.startswith(_ANY):
                path = override(value).path
                assert any(path == known[: len(path)] for known in settings()), value
