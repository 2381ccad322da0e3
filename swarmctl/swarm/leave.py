"""``swarmctl swarm leave``: a node leaves its swarm, but keeps its identity and what it learned."""

import os
import shlex
import sys
from contextlib import suppress

from hivemind_exp.errors import ConfigurationError, NodeConflict, SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.resuming import resume_command
from swarmctl.nodes import directory as nodes
from swarmctl.nodes.history import has_begun
from swarmctl.nodes.lookup import left_directory, readable, short_id
from swarmctl.paths import shown
from swarmctl.settings.command_line import set_values
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.swarm.member import member
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer

_FIXED = ("node.seed", "node.fresh", "game.kind", "game.group_size")
"""Settings, besides the tasks, that a node in a swarm keeps even if its profile sets other values."""


def leave(node: str | None, *, yes: bool, no_input: bool, as_json: bool) -> None:
    """Ask, and set the charter and the records of peers aside.

    Raises NodeConflict while the node runs, and ConfigurationError if it is in no swarm or no one can be asked.
    """
    files = readable(node) if node is not None else member(None, "leave").files
    name = files.root.name
    made = read_json(files.identity) or {}
    swarm = made.get("swarm")
    if not files.charter.exists() or not isinstance(swarm, str):
        raise ConfigurationError(f"node {name} is not in a swarm", next=f"swarmctl run --node {shlex.quote(name)}")
    status = f"swarmctl status --node {shlex.quote(name)}"
    if locks.is_held(files.lock):
        raise NodeConflict(f"node {name} is running; stop it first", next=f"swarmctl stop {shlex.quote(name)}")
    called = short_id(swarm)
    with suppress(SwarmError):  # its charter is damaged
        called = member(name, "leave").charter.name
    Prompter(yes=yes, silent=no_input or as_json).confirm(
        f"Node {name} will leave swarm {called}. It keeps its key and what it learned. To rejoin, it needs an "
        "invitation. Continue?",
        ConfigurationError(
            f"leaving swarm {called} needs confirmation; nothing was changed",
            next=f"swarmctl swarm leave {shlex.quote(name)} --yes",
        ),
    )
    aside = left_directory(files, swarm)
    with nodes.held(files, lambda _: status), disk_errors(files.root):
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(files.charter, aside / files.charter.name)
        if files.swarm.exists() and not (aside / files.swarm.name).exists():
            os.replace(files.swarm, aside / files.swarm.name)
        _go_alone(files)
        write_json(files.identity, made | {"left": now()})
    if as_json:
        print_json(node=name, swarm=swarm, put_aside=shown(aside))
        return
    say = Writer(sys.stdout)
    say(f"Node {name} has left swarm {called}.")
    if has_begun(files):
        say("Kept: its key, its trained model, its journal and its spending ledger.")
    else:
        say("Kept: its key. It has not trained yet.")
    say(f"Set aside: the charter and its records of peers, in {shown(aside)}")
    again = typed(resume_command(files))
    say("To continue alone on the same tasks:")
    say(f"  {again}")
    say("To rejoin this swarm, with an invitation from one of its nodes (to join another swarm, use another node):")
    say(f"  {again} --join INVITATION")


def _go_alone(files: NodeFiles) -> None:
    """Let the node continue with its swarm's tasks and game, for which it was created."""
    record = read_json(files.config)
    if record is None:
        return
    config, overrides = record["config"], record["overrides"]
    overrides.pop("swarm.join", None)
    for key in _FIXED:
        section, _, setting = key.partition(".")
        overrides[key] = config[section][setting]
    overrides["tasks"] = set_values(config["tasks"])
    config["swarm"]["join"] = ""
    write_json(files.config, record)
