"""``swarmctl`` whose supervisor waits for seconds where it otherwise waits for minutes.

    python -m tests.support.compressed_time run --node maths --restart on-failure

Only the pauses between restarts and the time after which a run counts as healthy are shorter.
"""

from __future__ import annotations

import sys

from swarmctl.supervision import restarts

FIRST_S, LONGEST_S, HEALTHY_S = 0.2, 2.0, 5.0


def main() -> int:
    """Run a command line. Returns the exit code."""
    restarts.FIRST_S, restarts.LONGEST_S, restarts.HEALTHY_S = FIRST_S, LONGEST_S, HEALTHY_S
    from swarmctl import cli

    return cli.run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
