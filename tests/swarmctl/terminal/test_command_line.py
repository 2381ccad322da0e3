"""Printed commands start this program when pasted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from swarmctl.terminal.command_line import launcher, typed


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "my env" / "bin" / "swarmctl"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_launcher_is_the_name_if_it_is_on_path(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(program.parent))
    assert launcher() == "swarmctl"


def test_launcher_is_the_full_path_if_path_has_no_or_another_swarmctl(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert launcher() == f"'{program}'"
    other = tmp_path / "swarmctl"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher() == f"'{program}'"


def test_launcher_of_a_module_is_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["/x/swarmctl/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/nowhere")
    assert launcher() == f"{python} -m swarmctl"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher() == "python -m swarmctl"


def test_only_the_first_word_is_replaced(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert typed("swarmctl run --node swarmctl") == f"'{program}' run --node swarmctl"
    assert typed("df -h /") == "df -h /"
    assert typed("swarmctld") == "swarmctld"
    assert typed("A=b.c/d _E= swarmctl doctor keys") == f"A=b.c/d _E= '{program}' doctor keys"
