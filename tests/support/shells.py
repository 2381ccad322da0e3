"""Real interactive shells on a pseudo-terminal, with a ``swarmctl`` on PATH that completion must never start."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import NoReturn

import pexpect
import pytest

from tests.support.terminals import Terminal

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
_KEY = "\x18p"
"""Bound in every shell to a command that prints the current line."""
_FIRST_S = 2.0
_QUIET_S = 0.08
_ESCAPES = re.compile(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>])|[\x07\x08\r]")


class Shell:
    """One interactive shell with a separate home directory."""

    def __init__(self, home: Path, program: list[str], environment: dict[str, str]) -> None:
        self.home = home
        self.started = home / "swarmctl-was-started"
        binaries = home / "bin"
        binaries.mkdir(parents=True, exist_ok=True)
        fake = binaries / "swarmctl"
        fake.write_text(f"#!/bin/sh\n: > '{self.started}'\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        self.terminal = Terminal(
            program[0],
            program[1:],
            cwd=str(home),
            env={
                "HOME": str(home),
                "PATH": f"{binaries}:/usr/bin:/bin",
                "TERM": "xterm",
                "LANG": "C.UTF-8",
                "INPUTRC": "/dev/null",
                **environment,
            },
            dimensions=(200, 120),
            encoding="utf-8",
            timeout=10,
        )
        self.terminal.delaybeforesend = None
        self.terminal.expect_exact("READY> ")
        self.terminal.send(" ")
        self.quiet()

    def quiet(self, first: float = _FIRST_S) -> str:
        """Return what the shell prints, from its first output until it has been silent for a moment."""
        text = ""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                text += self.terminal.read_nonblocking(65536, timeout=_QUIET_S if text else first)
            except pexpect.TIMEOUT:
                break
        return _ESCAPES.sub(" ", text)

    def tab(self, line: str, tabs: int = 1) -> tuple[str, str]:
        """Type ``line`` and press Tab; return the resulting line and the listed completions."""
        self.terminal.send("\x15" + line)
        self.quiet()
        listed = ""
        for _ in range(tabs):
            self.terminal.send("\t")
            listed += self.quiet()
        self.terminal.send(_KEY)
        self.terminal.expect(r"<<(.*?)>>")
        assert self.terminal.match is not None
        result = str(self.terminal.match.group(1))
        self.quiet(first=_QUIET_S)
        assert not self.started.exists(), "a Tab started swarmctl"
        return result, listed

    def completes(self, line: str) -> str:
        """Return the line after a Tab."""
        return self.tab(line)[0]

    def lists(self, line: str) -> set[str]:
        """Return the words on the screen after pressing Tab twice (one Tab may only add the common prefix)."""
        return set(self.tab(line, 2)[1].split())

    def close(self) -> None:
        self.terminal.close(force=True)


def missing(program: str) -> NoReturn:
    """Skip the test; in CI, which installs everything, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")


def required(program: str) -> str:
    """Return the path of a shell."""
    return shutil.which(program) or missing(program)


def bash(home: Path, *sourced: Path, **environment: str) -> Shell:
    """Start bash, which reads the files ``sourced``."""
    path = required("bash")
    startup = home / ".bashrc"
    lines = [f". '{file}'" for file in sourced]
    lines += [f'bind -x \'"{_KEY}": printf "<<%s>>\\n" "$READLINE_LINE"\'']
    startup.write_text("\n".join([*lines, "PS1='READY> '", ""]))
    return Shell(home, [path, "--noprofile", "--rcfile", str(startup), "-i"], environment)


def zsh(home: Path, functions: Path, **environment: str) -> Shell:
    """Start zsh with ``functions`` in its fpath and completion enabled as in its manual."""
    path = required("zsh")
    (home / ".zshrc").write_text(
        f"fpath=('{functions}' $fpath)\nautoload -Uz compinit && compinit\n"
        'show-line() { print -r -- "<<$BUFFER>>" }\n'
        f"zle -N show-line; bindkey '{_KEY}' show-line\n"
        "unsetopt prompt_sp prompt_cr; unset zle_bracketed_paste\nPS1='READY> '\n"
    )
    return Shell(home, [path, "-i"], environment)


def fish(home: Path, **environment: str) -> Shell:
    """Start fish, which finds completions in its configuration directory."""
    path = required("fish")
    configuration = home / ".config/fish/config.fish"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(
        "set -g fish_autosuggestion_enabled 0\nset -g fish_greeting\n"
        "function fish_prompt; echo -n 'READY> '; end\nfunction fish_right_prompt; end\nfunction fish_title; end\n"
        "function fish_user_key_bindings\n"
        '    bind \\cxp \'echo; echo "<<"(commandline)">>"; commandline -f repaint\'\nend\n'
    )
    return Shell(home, [path, "-i"], environment)
