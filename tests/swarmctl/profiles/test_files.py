"""``swarmctl profiles path``, ``edit`` and ``delete``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage.json_file import write_json
from tests.support.command_line import write_profile
from tests.support.journals import bare_node


def test_path_finds_own_and_builtin_profiles(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(home, "mine", 'extends = "demo"\n')
    assert cli.run(["profiles", "path", "mine"]) == Exit.DONE
    assert capsys.readouterr().out == f"{path}\n"
    assert cli.run(["profiles", "path"]) == Exit.DONE
    assert capsys.readouterr().out == f"{path.parent}\n"
    assert cli.run(["profiles", "path", "demo", "--json"]) == Exit.DONE
    assert Path(json.loads(capsys.readouterr().out)["path"]).is_file()


def test_an_edited_profile_is_checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_profile(home, "mine", 'extends = "demo"\n')
    editor = tmp_path / "my editor"
    editor.write_text("#!/bin/sh\necho '[game]\nrounds = -1' >> \"$2\"\n")
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", f"'{editor}' --wait")
    monkeypatch.delenv("VISUAL", raising=False)
    assert cli.run(["profiles", "edit", "mine"]) == Exit.CONFIGURATION
    out, err = capsys.readouterr()
    assert "game.rounds" in out
    assert err.startswith("  try: ")
    assert err.endswith("profiles edit mine\n")
    assert path.read_text().endswith("rounds = -1\n")
    monkeypatch.setenv("EDITOR", "false")
    assert cli.run(["profiles", "edit", "mine"]) == Exit.CONFIGURATION
    assert "the editor 'false' exited with code 1" in capsys.readouterr().err
    monkeypatch.setenv("EDITOR", "no-such-editor")
    assert cli.run(["profiles", "edit", "mine"]) == Exit.CONFIGURATION
    assert "cannot start the editor 'no-such-editor': No such file or directory\n" in capsys.readouterr().err
    assert cli.run(["profiles", "edit", "demo"]) == Exit.CONFIGURATION
    assert "profiles new my-demo --from demo" in capsys.readouterr().err
    write_profile(home, "my-demo", 'extends = "demo"\n')
    assert cli.run(["profiles", "edit", "demo"]) == Exit.CONFIGURATION
    assert "profiles new my-demo-2 --from demo" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "here"), [("EDITOR", "vi"), ("VISUAL", "nano"), ("VISUAL", None)])
def test_an_editor_that_is_here_is_suggested(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    variable: str,
    here: str | None,
) -> None:
    path = write_profile(home, "mine", 'extends = "demo"\n')
    if here is not None:
        (tmp_path / here).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "also-none")
    monkeypatch.setenv(variable, "no-such-editor")
    assert cli.run(["profiles", "edit", "mine"]) == Exit.CONFIGURATION
    following = f"ls -l {path}" if here is None else f"export {variable}={here}"
    assert capsys.readouterr().err.endswith(f"\n  try: {following}\n")


def test_a_profile_is_deleted_only_after_a_yes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(home, "mine", 'extends = "demo"\n')
    write_json(bare_node("maths").config, {"profile": "mine"})
    assert cli.run(["profiles", "delete", "mine"]) == Exit.CONFIGURATION
    assert "nothing was deleted" in capsys.readouterr().err
    assert path.exists()
    assert cli.run(["profiles", "delete", "mine", "--yes", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["used_by"] == ["maths"]
    assert not path.exists()
    assert cli.run(["profiles", "delete", "demo", "--yes"]) == Exit.CONFIGURATION
    assert "cannot be deleted" in capsys.readouterr().err
