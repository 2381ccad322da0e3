"""The command line with the stand-in as its trainer: ``python -m tests.swarmctl.run_stand_in run …``."""

from __future__ import annotations

import sys
from functools import partial

from swarmctl import cli, running

if __name__ == "__main__":
    running.execute = partial(running.execute, module="tests.swarmctl.stand_in")
    sys.exit(cli.run(sys.argv[1:]))
