"""How to end a command that runs until it is interrupted, and what the terminal shows then."""

import os
import signal
import sys
import termios
from contextlib import suppress

_LOCAL_MODES = 3
"""Index of the local modes, such as ECHO, in what ``tcgetattr`` returns."""


def how_to(do: str) -> str:
    """Return a sentence that says how to stop or leave this command (``do``).

    Ctrl-C does not reach a script's background job, because the shell makes it ignore SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return f"This command is in the background, so Ctrl-C does not reach it. To {do}: kill {os.getpid()}"
    return f"To {do}, press Ctrl-C."


def end_line() -> None:
    """End the line on which the terminal shows ^C, so that what follows, such as the shell's prompt, has its own line.

    Nothing happens if the terminal shows no ^C, because what is typed is hidden, or if there is no terminal.
    """
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError, termios.error):  # closed, or no terminal
            if termios.tcgetattr(stream.fileno())[_LOCAL_MODES] & termios.ECHO:
                stream.write("\n")
                stream.flush()
                return
