"""``swarmctl identity new``, and what it has in common with ``restore``."""

import os
import shlex
import sys
from contextlib import AbstractContextManager

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity, animal_name
from swarmctl.errors import UsageError
from swarmctl.identity.show import describe
from swarmctl.nodes import directory as nodes
from swarmctl.nodes.lookup import files_of, node_names
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer


def new(node: str | None, prompter: Prompter, *, as_json: bool) -> None:
    """Give a node an identity that nobody had before.

    Raises IdentityProblem where it has one and nobody agreed to replace it; NodeConflict where it is running.
    """
    name = chosen(node, "swarmctl identity new")
    again = f"swarmctl identity new --node {shlex.quote(name)}"
    made, files = Identity.generate(), files_of(name)
    with opened(name, again):
        replaced = put(made, files, prompter, f"{again} --yes")
    tell(made, files, replaced, as_json=as_json)


def put(identity: Identity, files: NodeFiles, prompter: Prompter, again: str) -> str | None:
    """Make ``identity`` the node's; return the peer id that it had, if that can be read.

    Raises IdentityProblem where there is another and nobody agreed to replace it; ``again`` is the command that does.
    """
    old = None
    there = os.path.lexists(files.key)
    if there:
        old = describe(files)
        if old["peer_id"] == identity.peer_id:
            return identity.peer_id
        who = f"{old['name']}, {old['peer_id']}" if old["peer_id"] else f"a key that cannot be used ({old['problem']})"
        prompter.confirm(
            f"Node {files.root.name} is {who}. Without a backup that identity is lost, with its contribution and "
            "reputation. Replace it?",
            IdentityProblem(f"node {files.root.name} has an identity already: {who}", next=again),
        )
    with disk_errors(files.root):
        identity.save(files.key, replace=there)
    return old["peer_id"] if old else None


def tell(identity: Identity, files: NodeFiles, replaced: str | None, *, as_json: bool) -> None:
    """Say who a node is now."""
    name = animal_name(identity.peer_id)
    if as_json:
        print_json(node=files.root.name, peer_id=identity.peer_id, name=name, file=str(files.key), replaced=replaced)
        return
    say = Writer(sys.stdout)
    say(f"Node {files.root.name} is {name}, {identity.peer_id}.")
    if replaced != identity.peer_id:
        say("Keep a copy somewhere else:")
        say("  " + command(["identity", "backup", "FILE", "--node", files.root.name]))


def chosen(node: str | None, again: str) -> str:
    """Return the node that a command means: the one it names, or the only one there is.

    Raises UsageError where that is not one; ``again`` is the command, and lacks the name.
    """
    if node is not None:
        return node
    names = node_names()
    if len(names) == 1:
        return names[0]
    found = f"there are {len(names)} nodes here" if names else "there is no node yet"
    raise UsageError(f"{found}: say which with --node", next=f"{again} --node {shlex.quote((names or ['my-node'])[0])}")


def opened(name: str, retry: str) -> AbstractContextManager[object]:
    """Return what locks a node for a block, and makes it first where it is not there yet. ``retry``: as for ``nodes``.

    Raises ConfigurationError where nothing can have that name; NodeConflict, in the block, where it is running.
    """
    if name in node_names():
        return nodes.held(files_of(name), lambda _: f"swarmctl status --node {shlex.quote(name)}")
    from swarmctl.settings.command_line import resolved_options
    from swarmctl.settings.options import RunOptions

    return nodes.opened(resolved_options(RunOptions(node=name)).config, lambda _: retry)
