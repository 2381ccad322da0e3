"""Names that seem mistyped: ``run`` asks before it creates such a node, which may mean a download."""

import re
import shlex
from contextlib import suppress
from dataclasses import replace

from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.nodes.lookup import node_names
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.command_line import rerun, resolved_options
from swarmctl.settings.options import RunOptions
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.suggest import nearest

_NUMBER = re.compile(r"[-_.]?\d+$")


def check_profile(options: RunOptions) -> None:
    """Raise ConfigurationError if there is no such profile, with the same command for the one probably meant."""
    if options.profile is None:
        return
    try:
        profiles.find(options.profile)
    except ConfigurationError as error:
        meant = nearest(options.profile, profiles.known_profiles())
        if meant is not None:
            with suppress(NodeError):
                error.next = rerun(resolved_options(replace(options, profile=meant)))
        raise


def check_name(options: RunOptions, prompter: Prompter) -> None:
    """Return unless ``--node`` seems mistyped and the user does not want a new node.

    A profile or an invitation says that a new node is meant, and so does a name that differs only by a number.

    Raises ``Cancelled``, or ConfigurationError if no one can be asked.
    """
    name, names = options.node, node_names()
    joins = any(flag == "--join" for flag, *_ in options.flags)
    if name is None or name in names or options.profile is not None or joins:
        return
    meant = nearest(name, names)
    if meant is None or _NUMBER.sub("", name) == _NUMBER.sub("", meant):
        return
    prompter.confirm(
        f"There is no node {name}, but there is a node {meant}. Create {name}?",
        ConfigurationError(
            f"unknown node {name!r}; did you mean {meant}? To create {name}, add --yes",
            next=f"swarmctl run --node {shlex.quote(meant)}",
        ),
        "Nothing was started.",
    )
