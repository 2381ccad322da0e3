"""What happens on the keyboard while something is drawn: typed characters stay hidden, and Ctrl-Z suspends cleanly."""

import contextlib
import os
import signal
import stat
import termios
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TextIO

from swarmctl.terminal.streams import can_draw

_STDOUT = 1
_SHOW_CURSOR = b"\x1b[?25h"
_LOCAL_MODES = 3
"""Index of the local modes, such as ECHO, in what ``tcgetattr`` returns."""
_FATAL = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end a program which does not handle them. It could then not restore the terminal."""


class HiddenInput:
    """Hides what is typed on the terminal of ``stream`` during the block, so that it cannot break what is drawn there.

    Only echo is switched off: Ctrl-C and Ctrl-Z work as always. However the block ends, echo is restored: also if the
    program is suspended or ends by a signal. (Nothing restores it after SIGKILL.) Nothing happens if ``stream`` cannot
    be drawn on, if stdout is a pipe (a pager at its end has settings of its own), or in the background.
    """

    def __init__(self, stream: TextIO, *, discard: bool = False, erase: Callable[[], None] | None = None) -> None:
        """``discard``: don't leave what was typed to the program that reads the terminal next, such as the shell.

        ``erase`` removes what is drawn. It is called in a signal handler when Ctrl-Z is pressed, and the program is
        suspended at once. Without it, ``suspending`` is set, and the owner calls ``suspend``.
        """
        self._terminal = _terminal(stream)
        self._discard, self._erase = discard, erase
        self._before: dict[signal.Signals, Any] = {}
        self._hidden = False
        self.suspending = False
        """Whether Ctrl-Z was pressed and ``suspend`` has not been called since."""
        self.continued = False
        """Whether the program was continued after a stop that it was not asked for (SIGSTOP). Set back by the owner."""

    def __enter__(self) -> Self:
        if self._terminal is not None:
            self._take_signals()
            self.hide()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    @property
    def in_background(self) -> bool:
        """Whether the shell has given the terminal to another program (``bg``), so that nothing must be drawn."""
        return self._terminal is not None and _foreground(self._terminal) not in (None, os.getpgrp())

    def hide(self) -> None:
        """Switch echo off. Call it again from time to time: a shell switches echo on while a program is stopped."""
        if self._terminal is None or _foreground(self._terminal) != os.getpgrp():
            return
        with contextlib.suppress(termios.error):  # the terminal is gone
            modes = termios.tcgetattr(self._terminal)
            if modes[_LOCAL_MODES] & termios.ECHO:
                self._hidden = True
                modes[_LOCAL_MODES] &= ~termios.ECHO
                termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def _show(self) -> None:
        if self._terminal is None or not self._hidden or _foreground(self._terminal) != os.getpgrp():
            return
        self._hidden = False
        with contextlib.suppress(termios.error):
            if self._discard:
                termios.tcflush(self._terminal, termios.TCIFLUSH)
            modes = termios.tcgetattr(self._terminal)
            modes[_LOCAL_MODES] |= termios.ECHO
            termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def suspend(self) -> None:
        """Stop this program, as Ctrl-Z does by default, and return once it is continued (``fg`` or ``bg``).

        What is drawn must have been removed. Processes that have another session, such as trainers, continue.
        """
        self.suspending = False
        self._show()
        number = signal.SIGTSTP
        signal.signal(number, self._before.get(number, signal.SIG_DFL))
        os.kill(os.getpid(), number)
        signal.signal(number, self._on_stop)
        self.continued = False
        self.hide()

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers only in the main thread
        if _has_shell():
            self._take(signal.SIGTSTP, self._on_stop)
            self._take(signal.SIGCONT, self._on_continue)
        for number in _FATAL:
            self._take(number, self._on_end)

    def _take(self, number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> None:
        """Handle a signal, unless the program ignores it or handles it itself."""
        if signal.getsignal(number) is signal.SIG_DFL:
            self._before[number] = signal.SIG_DFL
            signal.signal(number, handler)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._erase is None:
            self.suspending = True
        else:
            self._erase()
            self.suspend()

    def _on_continue(self, _number: int, _frame: FrameType | None) -> None:
        self.continued = True

    def _on_end(self, number: int, _frame: FrameType | None) -> None:
        self._show()
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self._terminal, _SHOW_CURSOR)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _terminal(stream: TextIO) -> int | None:
    """Return the descriptor of the terminal that ``stream`` writes to; None if its settings must not be changed."""
    try:
        piped = stat.S_ISFIFO(os.fstat(_STDOUT).st_mode)
        return stream.fileno() if can_draw(stream, os.environ) and not piped else None
    except (OSError, ValueError):  # closed, or not a file
        return None


def _foreground(terminal: int) -> int | None:
    """Return the process group that has the terminal; None if it is not this session's terminal."""
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return None


def _has_shell() -> bool:
    """Whether a shell started this program and can continue it. Otherwise Ctrl-Z has no effect."""
    parent = os.getppid()
    with contextlib.suppress(OSError):
        return parent > 0 and os.getsid(parent) == os.getsid(0)
    return False
