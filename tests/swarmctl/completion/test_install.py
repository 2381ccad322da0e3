"""``swarmctl completion``, and whether the scripts match the command tree."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
import tomllib
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.completion import install as completion
from swarmctl.errors import Exit
from swarmctl.paths import COMPLETIONS
from tests.support.command_line import ROOT
from tools.completions.__main__ import main, scripts
from tools.completions.tree import Kind, tree
from tools.completions.words import WORDS


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "user"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return path


PLACES = {
    "bash": ".local/share/bash-completion/completions/swarmctl",
    "zsh": ".local/share/zsh/site-functions/_swarmctl",
    "fish": ".config/fish/completions/swarmctl.fish",
}


def test_the_scripts_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out
    assert {path.name for path in (ROOT / "completions").iterdir()} == set(scripts())


def test_the_scripts_are_in_the_wheel() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["swarmctl"]
    for path in COMPLETIONS.iterdir():
        assert any(fnmatch.fnmatch(f"completions/{path.name}", pattern) for pattern in patterns)


def test_options_for_profiles_nodes_and_settings_are_completed() -> None:
    expected = {"--profile": Kind.PROFILE, "--node": Kind.NODE, "--set": Kind.SETTING, "--device": Kind.WORDS}
    met = set()
    for command in tree(cli.app, WORDS).walk():
        for option in command.options:
            for name in set(option.names) & set(expected):
                assert option.value is not None
                assert option.value.kind is expected[name], (command.path, name)
                met.add(name)
    assert met == set(expected)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_scripts_start_no_program(shell: str) -> None:
    text = completion.script(shell)
    # ``eval`` and ``python`` are only named, as a command and as a check of swarmctl.
    assert not re.search(r"""(?<!`)\b(eval|python3?)[ \t]+["$(`-]""", text)
    assert "swarmctl)" not in text.split()
    assert "$(swarmctl" not in text
    assert text.isascii() or shell != "bash"


def test_zsh_script_starts_with_compdef() -> None:
    assert completion.script("zsh").splitlines()[0] == "#compdef swarmctl"


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_install_again_and_uninstall(shell: str, user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = user / PLACES[shell]
    assert cli.run(["completion", "install", shell]) == Exit.DONE
    out = capsys.readouterr().out
    assert out.startswith(f"Wrote: ~/{PLACES[shell]}\n")
    assert path.read_text(encoding="utf-8") == completion.script(shell)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert cli.run(["completion", "install", shell]) == Exit.DONE
    assert capsys.readouterr().out.startswith("Already installed: ")
    path.write_text(f"# {completion.MARKER}\nof an older version")
    assert cli.run(["completion", "install", shell, "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "shell": shell, "path": str(path), "changed": True}
    assert [file for file in user.rglob("*") if file.is_file()] == [path], "nothing else is written"
    assert cli.run(["completion", "uninstall", shell]) == Exit.DONE
    assert not path.exists()
    assert cli.run(["completion", "uninstall", shell]) == Exit.DONE
    assert "Nothing to delete" in capsys.readouterr().out


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_file_not_written_by_swarmctl_is_kept(shell: str, user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = user / PLACES[shell]
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for action in ("install", "uninstall"):
        assert cli.run(["completion", action, shell]) == Exit.CONFIGURATION
        assert f"completion {action} {shell} --yes" in capsys.readouterr().err
        assert path.read_text() == "mine"
    assert cli.run(["completion", "install", shell, "--yes"]) == Exit.DONE
    assert path.read_text(encoding="utf-8") == completion.script(shell)


def test_symlink_is_replaced_not_followed(user: Path) -> None:
    path = user / PLACES["bash"]
    path.parent.mkdir(parents=True)
    (user / "dotfile").write_text(completion.script("bash"))
    path.symlink_to(user / "dotfile")
    assert cli.run(["completion", "install"]) == Exit.CONFIGURATION
    assert cli.run(["completion", "install", "--yes"]) == Exit.DONE
    assert not path.is_symlink()
    assert (user / "dotfile").exists()


def test_xdg_directories_are_used(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for shell in completion.SHELLS:
        assert cli.run(["completion", "install", shell]) == Exit.DONE
    assert (tmp_path / "data/bash-completion/completions/swarmctl").exists()
    assert (tmp_path / "data/zsh/site-functions/_swarmctl").exists()
    assert (tmp_path / "config/fish/completions/swarmctl.fish").exists()
    assert not list(user.iterdir())


def test_zsh_uses_an_existing_zfunc_directory(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (user / ".zfunc").mkdir()
    assert cli.run(["completion", "install", "zsh"]) == Exit.DONE
    assert (user / ".zfunc/_swarmctl").exists()
    assert f"fpath=({user}/.zfunc $fpath)" in capsys.readouterr().out


def test_zsh_directories_are_not_group_writable(user: Path) -> None:
    before = os.umask(0o002)
    try:
        assert cli.run(["completion", "install", "zsh"]) == Exit.DONE
    finally:
        os.umask(before)
    for directory in (".local/share", ".local/share/zsh", ".local/share/zsh/site-functions"):
        assert stat.S_IMODE((user / directory).stat().st_mode) == 0o755


@pytest.mark.parametrize(("shell", "code"), [("/usr/bin/fish", Exit.DONE), ("/bin/tcsh", Exit.USAGE), ("", Exit.USAGE)])
def test_shell_is_taken_from_the_environment(
    shell: str, code: Exit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", shell)
    assert cli.run(["completion", "show"]) == code
    out, err = capsys.readouterr()
    assert (out == completion.script("fish")) == (code == Exit.DONE)
    assert ("error: " in err) == (code == Exit.USAGE)


def test_unwritable_directory_is_an_error(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (user / ".local").write_text("a file where a directory should be")
    assert cli.run(["completion", "install", "bash"]) == Exit.FAILED
    assert "cannot write ~/.local/share/bash-completion" in capsys.readouterr().err
