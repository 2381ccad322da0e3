"""``swarmctl swarm new``: sign a charter, create the swarm's first node and print the command that joins the swarm."""

import re
import secrets
import shlex
import sys
import time

from hivemind_exp.errors import ConfigurationError, NodeConflict
from hivemind_exp.model_names import short_name
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import GROUP_SIZES, Charter
from hivemind_exp.swarm.charter_check import pinned
from hivemind_exp.swarm.identity import Identity, animal_name
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.errors import UsageError
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.nodes.history import has_begun
from swarmctl.run import join_swarm
from swarmctl.run.join_swarm import as_member, new_levels, pins
from swarmctl.run.outcome import retry_hint
from swarmctl.settings.command_line import resolved_options, write_last
from swarmctl.settings.options import RunOptions
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.swarm.invite import invitation, join_command, only_here, reach
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import game
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STAGE_TIME_S = 60
"""Default number of seconds per stage of the study-group game."""


def new_swarm(name: str, options: RunOptions, *, stage_time: int | None, is_open: bool) -> None:
    """Create the swarm ``name``, and its first node from ``options``; print the command that joins the swarm.

    Raises NodeConflict if the name is taken; ConfigurationError and TaskError if no charter can be made.
    """
    say = Writer(sys.stderr)
    files = lookup.files_of(name)
    _check_new(files)
    resolved = resolved_options(options)
    if resolved.config.swarm.charter is not None:
        raise ConfigurationError(
            f"cannot create a swarm while swarm.join is set ({resolved.origins.get('swarm.join')})",
            next=f"swarmctl profiles show {shlex.quote(resolved.profile.reference)} --origin",
        )
    size = resolved.config.game.group_size
    if size not in GROUP_SIZES:
        raise ConfigurationError(
            f"invalid game.group_size: {size}. In a swarm, use {GROUP_SIZES[0]} to {GROUP_SIZES[-1]}",
            next=f"{_again(name)} --set game.group_size=8",
        )
    if resolved.config.game.curriculum and resolved.config.game.kind != "sampling":
        raise ConfigurationError(
            "a swarm that plays study-group cannot have a curriculum (game.curriculum), because its nodes discuss the "
            "same questions",
            next=f"{_again(name)} --set game.curriculum=false",
        )
    with retry_hint(resolved), waiting(Writer(sys.stderr), "checking the tasks"):
        check_tasks(resolved.config.tasks)
        facts, digests = pins(resolved.config, new_levels(resolved.config))
        tasks = pinned(resolved.config.tasks, facts, digests)
    resolved = as_member(resolved, files)
    with nodes.opened(resolved.config, _again) as node, disk_errors(files.root):
        identity = Identity.load(files.key) if files.key.exists() else Identity.create(files.key)
        rules = resolved.config.game
        charter = Charter(
            name=name,
            founder=identity.peer_id,
            t0=int(time.time()),
            nonce=secrets.token_hex(16),
            game=rules.kind,
            group_size=rules.group_size,
            stage_time=stage_time or STAGE_TIME_S,
            is_open=is_open,
            tasks=tasks,
            curriculum=rules.curriculum,
        )
        member = join_swarm.apply_charter(join_swarm.invited(resolved, str(Invitation(charter.id))), charter)
        write_json(files.identity, nodes.identity(member.config))
        write_last(files, member)
        line = invitation(files, member.config.swarm, charter.id, identity.peer_id)
        # Last: once it has the charter, the node belongs to this swarm.
        join_swarm.store_membership(files, join_swarm.CharterMembership(charter, charter.seal(identity)))
    join = join_command(line, member.profile.reference, node.name)
    if options.as_json:
        swarm = {"swarm": charter.id, "name": charter.name}
        print_json(node=node.name, **swarm, peer=identity.peer_id, invitation=str(line), command=join)
        return
    labels = ", ".join(task.label for task in charter.tasks)
    say(
        f"Created swarm {charter.name} ({lookup.short_id(charter.id)}), "
        f"{'open to anyone' if charter.is_open else 'invite-only'}: {game(charter)}, "
        f"{'task' if len(charter.tasks) == 1 else 'tasks'} {labels}. None of this can be changed later."
    )
    say(
        f"Its first node is {node.name} ({animal_name(identity.peer_id)}), which trains "
        f"{short_name(member.config.model.name)}. Start it so that others can find the swarm:"
    )
    run = typed(f"swarmctl run --node {shlex.quote(node.name)}")
    say(f"  {run}")
    if rules.rounds:
        say(f"It stops after round {rules.rounds:,} (game.rounds). To let it run until you stop it, start it with:")
        say(f"  {run} --rounds 0")
    say(reach(line, member.config.swarm))
    who = "other nodes on this machine" if only_here(line) else "others (and other nodes on this machine)"
    say(f"Once it is running, {who} can join with:")
    print(join, flush=True)


def _check_new(files: NodeFiles) -> None:
    """Raise UsageError if the swarm's name is invalid, NodeConflict if the node is already in use."""
    name = files.root.name
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"invalid swarm name: {name!r}. Use 1 to 64 letters, digits, '.', '_' or '-', starting with a "
            "letter or digit",
            next="swarmctl swarm new my-swarm",
        )
    other = _again(lookup.other_name(name))
    if files.charter.exists():
        swarm = (read_json(files.identity) or {}).get("swarm") or ""
        raise NodeConflict(
            f"node {name} is already in swarm {lookup.short_id(swarm)}",
            next=f"swarmctl swarm invite --node {shlex.quote(name)}",
        )
    nodes.check_free(files, lambda _: other)
    if has_begun(files):
        raise NodeConflict(f"node {name} has already trained alone; a swarm needs a new node", next=other)


def _again(name: str) -> str:
    return f"swarmctl swarm new {shlex.quote(name)}"
