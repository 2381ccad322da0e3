"""Run the command line with the stand-in as its trainer: ``python -m tests.support.run_fake_trainer run …``.

``STAND_IN_GRACE``: seconds that a trainer has to stop, for tests that should not wait for the default.
``STAND_IN_PAUSE``: seconds before the first restart of a trainer.
``STAND_IN_OOM``: set if the kernel says that it killed the trainer for memory.
``STAND_IN_OPENAI``: the base URL of a test server that stands in for the provider openai.
``STAND_IN_CHECKS``: the checks and groups of doctor's checks to make, separated by commas.
``STAND_IN_FINDING``: ``failed`` or ``warning``, the status of one more check.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hivemind_exp.providers import PROVIDERS
from swarmctl import cli

TRAINER = "tests.support.fake_trainer"
STARTING = {"run", "init", "swarm", "restart", "service"}
"""Commands that may start a trainer. The others would only import more than they do for users."""


def use_stand_in(arguments: Sequence[str]) -> None:
    """Make this process's ``swarmctl`` do as its variables say. ``arguments``: the command."""
    if STARTING & set(arguments):
        from swarmctl.run import command as running
        from swarmctl.run import supervisor
        from swarmctl.supervision import restarts
        from swarmctl.supervision.memory import MemoryWatch

        running.run_command = partial(running.run_command, module=TRAINER)
        running.plan_of = partial(running.plan_of, module=TRAINER)
        supervisor.GRACE_S = float(os.environ.get("STAND_IN_GRACE", supervisor.GRACE_S))
        restarts.FIRST_S = float(os.environ.get("STAND_IN_PAUSE", restarts.FIRST_S))
        if "STAND_IN_OOM" in os.environ:
            MemoryWatch.was_killed = lambda _: True  # type: ignore[method-assign]
    if "STAND_IN_OPENAI" in os.environ:
        PROVIDERS["openai"] = replace(PROVIDERS["openai"], base_url=os.environ["STAND_IN_OPENAI"])
    if {"STAND_IN_CHECKS", "STAND_IN_FINDING"} & os.environ.keys():
        from swarmctl.doctor import registry
        from swarmctl.doctor.check import Check, Finding, Status

        if "STAND_IN_CHECKS" in os.environ:
            wanted = os.environ["STAND_IN_CHECKS"].split(",")
            registry.CHECKS = tuple(check for check in registry.CHECKS if {check.group, check.key} & {*wanted})
        if "STAND_IN_FINDING" in os.environ:
            found = Finding(Status(os.environ["STAND_IN_FINDING"]), "it is slow today", "swarmctl tasks list")
            registry.CHECKS += (Check("stand", "in", lambda _: found),)


if __name__ == "__main__":
    use_stand_in(sys.argv[1:])
    sys.exit(cli.run(sys.argv[1:]))
