"""What the flags of ``swarmctl run`` mean as settings, over what the node was last run with."""

import os

from hivemind_exp.swarm import invitation
from swarmctl.nodes import lookup
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.last_run import read_last
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved, given, override, resolve
from swarmctl.settings.schema import SettingPath
from swarmctl.settings.sources import NAME, Override

JOIN = ("swarm", "join")


def resolved_options(options: RunOptions) -> Resolved:
    """Return the configuration a command line means.

    ``--node NAME`` without ``--profile`` repeats what that node was last run with; what this command says goes over it.
    """
    overrides = [override(text) for text in options.assignments]
    overrides += [
        invitation_override(text, flag) if flag == "--join" else given(flag, key, text)
        for flag, key, text in options.flags
    ]
    last = None
    if options.node is not None:
        overrides.append(Override(NAME, options.node, "--node"))
        last = read_last(lookup.files_of(options.node)) if options.profile is None else None
    profile = profiles.read(profiles.find(profiles.chosen(options.profile, last.profile if last else None)))
    latest: dict[SettingPath, Override] = {}
    for each in [*(last.overrides if last else ()), *overrides]:
        latest.pop(each.path, None)  # the last of several stands in its own place: lora=false undoes what is before it
        latest[each.path] = each
    return resolve(profile, list(latest.values()), os.environ)


def invitation_override(text: str, flag: str) -> Override:
    """Return what ``--join`` stands for, however the line was wrapped on its way. Raises SwarmError."""
    return Override(JOIN, str(invitation.parse(text)), flag)
