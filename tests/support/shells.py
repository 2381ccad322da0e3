"""Real interactive shells on a pseudo-terminal, with a ``swarmctl`` on PATH that completion must never start."""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import stat
import time
from pathlib import Path
from typing import NoReturn

import pexpect
import psutil
import pytest

from tests.support.patience import Patience
from tests.support.terminals import Terminal

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
_KEY = "\x18p"
"""Bound in every shell to a command that prints the current line."""
_LOOK_S = 0.002
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
        name = ctypes.CDLL(None).ptsname  # Python has it since 3.13
        name.restype = ctypes.c_char_p
        self._keys = os.fsdecode(name(self.terminal.child_fd))
        self.terminal.send(" ")
        self.answer()

    def answer(self) -> str:
        """Return what the shell prints until it waits for the next key."""
        text, patience = "", Patience(60)
        while True:
            waits = self._waits()
            text += self._printed()  # afterwards, so that nothing it printed before it waited is missing
            if waits:
                return _ESCAPES.sub(" ", text)
            assert not patience.is_over(), f"the shell does not wait for a key, but printed {text!r}"
            time.sleep(_LOOK_S)

    def _waits(self) -> bool:
        """Whether the shell has read every key, has no child process and sleeps with all its threads."""
        shell = psutil.Process(self.terminal.pid)
        keys = os.open(self._keys, os.O_RDONLY | os.O_NOCTTY)
        try:
            # Linux passes keys on a moment after they were typed, unless somebody asks for them, as this does.
            if select.select([keys], [], [], 0)[0]:
                return False
        finally:
            os.close(keys)
        try:
            states = {psutil.Process(thread.id).status() for thread in shell.threads()}
        except psutil.NoSuchProcess:  # a thread that has just ended
            return False
        return states == {psutil.STATUS_SLEEPING} and not shell.children()

    def _printed(self) -> str:
        text = ""
        while True:
            try:
                text += self.terminal.read_nonblocking(65536, timeout=0)
            except pexpect.TIMEOUT:
                return text

    def tab(self, line: str, tabs: int = 1) -> tuple[str, str]:
        """Type ``line`` and press Tab; return the resulting line and the listed completions."""
        self.terminal.send("\x15" + line)
        self.answer()
        listed = ""
        for _ in range(tabs):
            self.terminal.send("\t")
            listed += self.answer()
        self.terminal.send(_KEY)
        self.terminal.expect(r"<<(.*?)>>")
        assert self.terminal.match is not None
        result = str(self.terminal.match.group(1))
        self.answer()
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
    # Without this directory, fish reads every manual page in the background, which takes a minute.
    (home / ".local/share/fish/generated_completions").mkdir(parents=True, exist_ok=True)
    configuration = home / ".config/fish/config.fish"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(
        "set -g fish_autosuggestion_enabled 0\nset -g fish_greeting\n"
        "function fish_prompt; echo -n 'READY> '; end\nfunction fish_right_prompt; end\nfunction fish_title; end\n"
        "function fish_user_key_bindings\n"
        '    bind \\cxp \'echo; echo "<<"(commandline)">>"; commandline -f repaint\'\nend\n'
    )
    return Shell(home, [path, "-i"], environment)
