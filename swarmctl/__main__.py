"""Entry point: ``swarmctl`` and ``python -m swarmctl``. Handles ``--version`` before it imports anything."""

import sys
from contextlib import suppress

from swarmctl.version import VERSION

_INTERRUPTED = 130
"""``Exit.INTERRUPTED``, whose module is not imported yet."""


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        with suppress(OSError):  # reported below
            print(f"swarmctl {VERSION}", flush=True)
            return
    try:
        from swarmctl.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before ``run`` can handle it: the imports take a tenth of a second
        code = _INTERRUPTED
        with suppress(OSError, ValueError, AttributeError):  # stderr is closed
            sys.stderr.write("Interrupted.\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
