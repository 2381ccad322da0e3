"""Run programs on a pseudo-terminal, to test what they draw and how they handle input."""

from __future__ import annotations

import math
import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pexpect

from tests.support.command_line import ROOT
from tests.support.patience import Patience, wait_for_end

_LOCAL_MODES = 3
"""Index of the local modes, such as ICANON, in what ``tcgetattr`` returns."""
_LOOK_S = 0.5


class Terminal(pexpect.spawn):  # type: ignore[type-arg]
    """A program on a terminal. Its timeout counts as ``Patience`` does."""

    def expect_list(self, patterns: Any, timeout: float | None = -1, *_: Any, **__: Any) -> int:
        return self._patiently(super().expect_list, patterns, timeout)

    def expect_exact(self, patterns: Any, timeout: float | None = -1, *_: Any, **__: Any) -> int:
        return self._patiently(super().expect_exact, patterns, timeout)

    def _patiently(self, expect: Callable[..., int], patterns: Any, timeout: float | None) -> int:
        limit = self.timeout if timeout == -1 else timeout
        patience = Patience(math.inf if limit is None else limit)
        while True:
            try:
                return expect(patterns, timeout=_LOOK_S)
            except pexpect.TIMEOUT:
                if patience.is_over():
                    raise


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    rows: int = 24,
    columns: int = 200,
    timeout: float = 60,
) -> pexpect.spawn[str]:
    """Start a program with a terminal as stdin, stdout and stderr. ``timeout``: seconds to wait for any text."""
    return Terminal(
        command[0],
        list(command[1:]),
        cwd=str(ROOT),
        env=dict(os.environ if environment is None else environment),
        encoding="utf-8",
        timeout=timeout,
        dimensions=(rows, columns),
        preexec_fn=_default_signals,
    )


def _default_signals() -> None:
    """Undo what a script's background job inherits: there, both are ignored, which no program in a terminal expects."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def expect_words(terminal: pexpect.spawn[str], text: str) -> None:
    """Wait for a text. It may be wrapped between words and behind slashes: paths of any length move the line ends."""
    pattern = r"\s+".join(re.escape(word).replace("/", r"/\s*") for word in text.split())
    terminal.expect(pattern + " " * (len(text) - len(text.rstrip(" "))))


def interrupt(terminal: pexpect.spawn[str]) -> None:
    """Press Ctrl-C at a question. Python's line editor loses a Ctrl-C that comes just before it reads."""
    while termios.tcgetattr(terminal.child_fd)[_LOCAL_MODES] & termios.ICANON:
        assert terminal.isalive(), "no question was asked"
        time.sleep(0.01)
    terminal.send("N")  # which a yes-or-no question shows, too
    terminal.expect_exact("N")
    terminal.sendintr()


def end_input(terminal: pexpect.spawn[str]) -> None:
    """Press Ctrl-D."""
    terminal.sendeof()


def rest_of(terminal: pexpect.spawn[str], timeout: float = -1) -> str:
    """Wait until a program exits, and return what it printed since the last expected text."""
    terminal.expect(pexpect.EOF, timeout=timeout)
    terminal.close()
    return str(terminal.before)


def printed(command: Sequence[str], *, columns: int) -> tuple[int, str]:
    """Run a program with only stdout on a terminal, and return its exit code and output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"COLUMNS": str(columns), "LINES": "24"}, stdout=follower
    )
    os.close(follower)
    output = b""
    while chunk := _read(leader):
        output += chunk
    os.close(leader)
    return wait_for_end(process), output.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # on Linux this means that the other side is closed
        return b""
