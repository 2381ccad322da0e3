"""What the flags of ``swarmctl run`` mean as settings, over what the node was last run with."""

from __future__ import annotations

import os

from hivemind_exp.swarm import invitation
from swarmctl.nodes import lookup
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.last_run import read_last
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Override, Resolved, override, resolve
from swarmctl.settings.schema import parse


def resolved_options(options: RunOptions) -> Resolved:
    """Return the configuration a command line means.

    ``--node NAME`` without ``--profile`` repeats what that node was last run with; what this command says goes over it.
    """
    given = [override(text) for text in options.assignments]
    given += [_given(flag, path, text) for flag, path, text in _flags(options)]
    last = None
    if options.node is not None:
        given.append(Override(("node", "name"), options.node, "--node"))
        last = read_last(lookup.files_of(options.node)) if options.profile is None else None
    earlier = last.overrides if last else ()
    profile = profiles.read(profiles.find(profiles.chosen(options.profile, last.profile if last else None)))
    return resolve(profile, _latest([*earlier, *given]), os.environ)


def _flags(options: RunOptions) -> list[tuple[str, tuple[str, ...], str]]:
    return [(flag, tuple(key.split(".")), text) for flag, key, text in options.flags]


def _given(flag: str, path: tuple[str, ...], text: str) -> Override:
    return invitation_override(text, flag) if flag == "--join" else Override(path, parse(text, path), flag)


def _latest(overrides: list[Override]) -> list[Override]:
    """Keep the last of several values of one setting, in its place: ``model.lora=false`` undoes what is before it."""
    latest: dict[tuple[str, ...], Override] = {}
    for given in overrides:
        latest.pop(given.path, None)
        latest[given.path] = given
    return list(latest.values())


JOIN = ("swarm", "join")


def invitation_override(text: str, flag: str) -> Override:
    """Return what ``--join`` stands for, however the line was wrapped on its way. Raises SwarmError."""
    return Override(JOIN, str(invitation.parse(text)), flag)
