"""A suggested ``ls`` works, whether the file exists or not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hivemind_exp.list_command import list_command


@pytest.mark.parametrize(
    ("name", "listed"), [("a file", "a file"), ("link", "link"), ("none", ""), ("no/such/file", ""), ("a file/x", "")]
)
def test_the_nearest_existing_place_is_listed(tmp_path: Path, name: str, listed: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    command = list_command(tmp_path / name)
    done = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", check=True)
    assert (str(tmp_path / listed) if listed else "a file") in done.stdout


@pytest.mark.parametrize("name", ["-r", "--help", "a b", "it's", "$HOME"])
def test_any_name_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"./{name}").touch()
    done = subprocess.run(["bash", "-c", list_command(Path(name))], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.rstrip().endswith(name)
