"""All checks, in display order. To add one, follow "Add a doctor check" in ARCHITECTURE.md."""

import re
from collections.abc import Sequence

from hivemind_exp.providers import PROVIDERS
from swarmctl.doctor.check import Check, Context
from swarmctl.doctor.checks import (
    accelerator,
    fit,
    hub,
    installation,
    keys,
    machine,
    sandbox,
    server_fit,
    swarm,
)
from swarmctl.doctor.checks.api import checks as api
from swarmctl.errors import UsageError
from swarmctl.keys.keyring import ALONE_S
from swarmctl.terminal.suggest import nearest

CHECKS: tuple[Check, ...] = (
    Check("machine", "memory", machine.memory),
    Check("machine", "disk", machine.disk),
    Check("machine", "files", machine.descriptors),
    Check("machine", "threads", machine.threads),
    Check("machine", "clock", machine.clock),
    Check("machine", "wsl", machine.wsl),
    Check("machine", "sandbox", sandbox.kernel),
    Check("python", "version", installation.version),
    Check("python", "libraries", installation.libraries),
    Check("python", "files", installation.whole, limit=10.0),
    Check("python", "environment", installation.mixed, limit=5.0),
    Check("python", "environments", installation.environments, profile=True),
    Check("accelerator", "device", accelerator.device),
    Check("accelerator", "memory", accelerator.memory),
    Check("accelerator", "compute", accelerator.compute, limit=accelerator.DEEP_SECONDS, profile=True, deep=True),
    Check("fit", "profile", fit.profile),
    Check("fit", "memory", fit.memory, profile=True),
    Check("fit", "server", server_fit.memory, profile=True),
    Check("keys", "keyring", keys.keyring, limit=4 * ALONE_S),
    Check("keys", "huggingface", keys.huggingface),
    Check("keys", "wandb", keys.wandb, profile=True),
    Check("api", "providers", api.providers),
    Check("swarm", "p2pd", swarm.p2pd),
    Check("swarm", "port", swarm.port),
    Check("swarm", "node", swarm.node, profile=True),
    Check("swarm", "key", swarm.key),
    Check("swarm", "charter", swarm.charter),
    Check("swarm", "listen", swarm.listen),
    Check("swarm", "modes", swarm.modes),
    Check("swarm", "leftovers", swarm.leftovers),
    Check("swarm", "checkpoints", swarm.checkpoints, limit=60.0),
    Check("hub", "token", hub.token),
    Check("hub", "model", hub.model, profile=True),
)
PROFILE = "fit.profile"
"""The check that reports why a profile is invalid."""


def groups() -> list[str]:
    """Return the names of the groups, in order."""
    return list(dict.fromkeys(check.group for check in CHECKS))


def select(names: Sequence[str], context: Context) -> list[Check]:
    """Return the checks of groups (``hub``), single checks (``hub.token``) or all of a provider's (``api.openai``).

    Without names, returns every check, or, if no profile is checked, those that need none. Raises UsageError for an
    unknown name and suggests the nearest one.
    """
    if not names and context.machine_only:
        return [check for check in CHECKS if not check.profile and check.look not in (fit.profile, api.providers)]
    own = api.checks(context)  # replace ``api.providers``
    checks = [each for check in CHECKS for each in (own if own and check.look is api.providers else [check])]
    checks = [each for each in checks if each.look is not server_fit.memory or server_fit.applies(context)]
    known = dict.fromkeys(name for check in checks for name in _names(check))
    for name in names:
        if name not in known:
            from swarmctl.settings.command_line import flag_for  # imports pydantic

            group, _, provider = name.partition(".")
            provider = provider.partition(".")[0]
            if group == "api" and provider in PROVIDERS:
                raise UsageError(
                    f"this profile does not use {provider}, so it has no check {name}",
                    next=context.again(name, "--set", f"offload.provider={provider}"),
                )
            if flag := flag_for(name):
                raise UsageError(f"unknown check {name!r}; did you mean {flag}?", next=f"swarmctl doctor {flag}")
            guess = nearest(name, known)
            hint = f"did you mean {guess}?" if guess else f"the groups are {', '.join(groups())}"
            again = context.again(guess) if guess else "swarmctl doctor --help"
            raise UsageError(f"unknown check {name!r}; {hint}", next=again)
    return [check for check in checks if not names or not _names(check).isdisjoint(names)]


def _names(check: Check) -> set[str]:
    """Return the names that select a check: its group, its key, the key without its last part, and its provider."""
    whole = check.key.rpartition(".")[0]
    return {check.group, check.key, whole, re.split("[:@]", whole)[0]}
