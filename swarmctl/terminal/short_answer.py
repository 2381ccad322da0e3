"""Read the answer to a yes-or-no question without showing anything else that is typed, such as a pasted key."""

import os
import select
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

_WORDS = ("yes", "no")
_LOCAL_MODES, _CHARACTERS = 3, 6
"""Indexes of the local modes and of the special characters in what ``tcgetattr`` returns."""


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """A line that was typed."""

    text: str
    on_screen: bool
    """Whether the terminal may have shown all of it."""


def read_short_answer(question: str, source: TextIO, screen: TextIO) -> ShortAnswer | None:
    """Ask on a terminal, and return the line that is typed; None at the end of the input.

    Of what is typed, only yes and no are shown. Raises KeyboardInterrupt on Ctrl-C.
    """
    with _unbuffered(source) as modes:
        ahead = modes is not None and bool(select.select([source], [], [], 0)[0])  # the terminal has shown it
        _write(screen, question)
        if modes is None:
            line = source.readline()
            return ShortAnswer(line.strip(), on_screen=True) if line else None
        shows = bool(modes[_LOCAL_MODES] & termios.ECHO)
        typed = _typed(source.fileno(), modes[_CHARACTERS], screen if shows else None)
    _write(screen if typed is not None else None, "\n")
    return None if typed is None else ShortAnswer(typed.decode(errors="replace").strip(), on_screen=ahead)


def _typed(terminal: int, characters: list[Any], screen: TextIO | None) -> bytes | None:
    """Return the bytes up to the end of the line. Shows those that can be the beginning of yes or no on ``screen``."""
    erase, kill, end = (characters[each] for each in (termios.VERASE, termios.VKILL, termios.VEOF))
    text, shown = b"", 0
    while (byte := os.read(terminal, 1)) not in (b"\n", b"\r", b""):
        if byte == end:
            break
        if byte in (erase, kill):
            text = text[:-1] if byte == erase else b""
        else:
            text += byte
        while shown > len(text):
            shown -= 1
            _write(screen, "\b \b")
        if shown == len(text) - 1 and _may_be_shown(text):
            shown += 1
            _write(screen, chr(text[-1]))
    return text if text or byte in (b"\n", b"\r") else None


def _may_be_shown(text: bytes) -> bool:
    return any(word.startswith(text.decode(errors="replace").lower()) for word in _WORDS)


def _write(screen: TextIO | None, text: str) -> None:
    if screen is not None:
        screen.write(text)
        screen.flush()


@contextmanager
def _unbuffered(source: TextIO) -> Iterator[list[Any] | None]:
    """Pass each byte on as it is typed, and show none. Yields the terminal's modes before; None without a terminal."""
    try:
        terminal = source.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):
        yield None
        return
    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)
        yield before
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
