"""The command that updates this installation."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from hivemind_exp import update
from hivemind_exp.update import update_command

ROOT = Path(update.__file__).parents[1]


def test_a_checkout_is_pulled_and_installed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "a checkout" / "hivemind_exp" / "update.py"
    (tmp_path / "a checkout" / ".git").mkdir(parents=True)
    root = shlex.quote(str(tmp_path / "a checkout"))
    monkeypatch.setattr(update, "__file__", str(package))
    assert update_command() == f"git -C {root} pull && {sys.executable} -m pip install --editable {root}"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "a checkout" / ".venv"))
    assert update_command() == f"git -C {root} pull && make -C {root} .venv/.installed"


def test_the_target_of_make_exists() -> None:
    assert "$(VENV)/.installed:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/home/me/.local/share/uv/tools/swarmctl", "uv tool install --reinstall {0}"),
        ("/home/me/.local/share/pipx/venvs/swarmctl", "pipx install --force {0}"),
        ("/home/me/venv", f"{sys.executable} -m pip install {{0}}"),
    ],
)
def test_a_copy_is_installed_again_from_its_checkout(
    prefix: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(update, "__file__", str(tmp_path / "lib" / "hivemind_exp" / "update.py"))
    monkeypatch.setattr(sys, "prefix", prefix)
    record = json.dumps({"url": tmp_path.as_uri(), "dir_info": {}})
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: record))
    assert update_command() == f"git -C {tmp_path} pull && {command.format(tmp_path)}"


@pytest.mark.parametrize("record", [None, "{}", "[", '{"url": "https://example.org/x.whl"}'])
def test_without_a_known_source_the_version_is_shown(
    record: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(update, "__file__", str(tmp_path / "hivemind_exp" / "update.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: record))
    assert update_command() == "swarmctl --version"


def test_a_package_that_is_not_installed_has_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(update, "__file__", str(tmp_path / "hivemind_exp" / "update.py"))
    monkeypatch.setattr(metadata, "distribution", missing)
    assert update_command() == "swarmctl --version"
