"""Entry point: ``swarmctl`` and ``python -m swarmctl``. Handles ``--version`` before it imports anything."""

import os
import signal
import sys

_INTERRUPTED = 130
"""``Exit.INTERRUPTED``, whose module is not imported yet."""


def _exit_at_once(*_: object) -> None:
    """End the process. During imports and Python's own exit, an exception would be shown as a traceback."""
    try:  # noqa: SIM105 - contextlib is not imported yet
        # The line break ends the line on which a terminal shows ^C.
        os.write(2, b"\nInterrupted.\n" if os.isatty(2) else b"Interrupted.\n")
    except OSError:  # stderr is closed
        pass
    os._exit(_INTERRUPTED)


_STARTED = __name__ == "__main__" or os.path.basename(sys.argv[0]).startswith("swarmctl")
"""Whether this is the program, not a module that another program imports."""
_TAKES_OVER = _STARTED and signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""Whether Ctrl-C is ours: whoever started this process may have made it ignore the signal."""
if _TAKES_OVER:
    signal.signal(signal.SIGINT, _exit_at_once)

from contextlib import suppress  # noqa: E402 - Ctrl-C may come while it is imported

from swarmctl.version import VERSION  # noqa: E402


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        with suppress(OSError):  # reported below
            print(f"swarmctl {VERSION}", flush=True)
            return
    try:
        from swarmctl.cli import run

        if _TAKES_OVER:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(sys.argv[1:])
        if _TAKES_OVER:
            signal.signal(signal.SIGINT, _exit_at_once)
    except KeyboardInterrupt:  # just before or after ``run`` handles it
        code = _INTERRUPTED
        with suppress(OSError, ValueError, AttributeError):  # stderr is closed
            sys.stderr.write("Interrupted.\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
