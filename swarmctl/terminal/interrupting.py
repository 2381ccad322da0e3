"""How to end a command that runs until it is interrupted."""

import os
import signal


def how_to(do: str) -> str:
    """Return a sentence that says how to stop or leave this command (``do``).

    Ctrl-C does not reach a script's background job, because the shell makes it ignore SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return f"This command is in the background, so Ctrl-C does not reach it. To {do}: kill {os.getpid()}"
    return f"To {do}, press Ctrl-C."
