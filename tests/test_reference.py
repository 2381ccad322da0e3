"""The generated reference: up to date, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.config import ProviderConfig, TaskConfig
from swarmctl.cli import app
from swarmctl.settings.schema import dotted, settings
from tools import generate, reference
from tools.completions.tree import tree
from tools.completions.words import WORDS


def test_generated_files_are_up_to_date() -> None:
    assert generate.main(["--check"]) == 0


@pytest.mark.slow
def test_an_outdated_page_is_reported_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    (tmp_path / "commands.md").write_text(reference.commands() + "edited\n")
    (tmp_path / "settings.md").write_text(reference.settings_page())
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().out.endswith("commands.md is out of date: run python -m tools.generate\n")
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_every_command_has_its_help() -> None:
    page = reference.commands()
    for command in tree(app, WORDS).walk():
        name = " ".join(("swarmctl", *command.path))
        assert f"## {name}\n\n```text\nUsage: {name} " in page
        assert all(option.names[-1] in page for option in command.options)


def test_every_setting_has_a_value_and_a_meaning() -> None:
    rows = [line.split(" | ") for line in reference.settings_page().splitlines() if line.startswith("| `")]
    names = [row[0].removeprefix("| ").strip("`") for row in rows]
    tables = {("tasks",), ("providers",), ("offload", "prices")}
    assert {dotted(path) for path in settings() if path not in tables} <= set(names)
    assert {*TaskConfig.model_fields, *ProviderConfig.model_fields} <= set(names)
    for name, value, _, meaning in rows:
        assert value, name
        assert meaning.removesuffix(" |"), name
