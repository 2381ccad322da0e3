"""Run the command line with the stand-in as its trainer: ``python -m tests.support.run_fake_trainer run …``.

``STAND_IN_GRACE``: seconds that a trainer has to stop, for tests that should not wait for the default.
``STAND_IN_OPENAI``: the base URL of a test server that stands in for the provider openai.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial

from hivemind_exp.providers import PROVIDERS
from swarmctl import cli
from swarmctl.run import command as running
from swarmctl.run import supervisor

if __name__ == "__main__":
    running.run_command = partial(running.run_command, module="tests.support.fake_trainer")
    running.plan_of = partial(running.plan_of, module="tests.support.fake_trainer")
    supervisor.GRACE_S = float(os.environ.get("STAND_IN_GRACE", supervisor.GRACE_S))
    if "STAND_IN_OPENAI" in os.environ:
        PROVIDERS["openai"] = replace(PROVIDERS["openai"], base_url=os.environ["STAND_IN_OPENAI"])
    sys.exit(cli.run(sys.argv[1:]))
