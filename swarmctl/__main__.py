"""Entry point: ``swarmctl`` and ``python -m swarmctl``. Handles ``--version`` before it imports anything."""

import sys
from contextlib import suppress

from swarmctl.version import VERSION


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        with suppress(OSError):  # reported below
            print(f"swarmctl {VERSION}", flush=True)
            return
    from swarmctl.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
