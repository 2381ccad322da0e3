"""Run a command until standard input closes, and leave none of its processes behind.

``swarmctl run`` holds the other end of standard input. However it ends, ``kill -9`` included, its server ends too. This
module is a program: its arguments are the command.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 5.0
"""Seconds between asking the command to end and killing it. Nothing that it has in memory is needed again."""


def main() -> int:
    """Return the command's exit status, or 128 plus the number of the signal that ended it."""
    for ignored in (signal.SIGINT, signal.SIGHUP):  # whoever sends these to all processes also ends the writer of stdin
        signal.signal(ignored, signal.SIG_IGN)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _end(process.pid, signal.SIGTERM))

    def end_with_the_writer() -> None:
        while os.read(0, 1):
            pass
        _end(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        _end(process.pid, signal.SIGKILL)

    threading.Thread(target=end_with_the_writer, daemon=True).start()
    code = process.wait()
    _end(process.pid, signal.SIGKILL)  # its own child processes
    return code if code >= 0 else 128 - code


def _end(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
