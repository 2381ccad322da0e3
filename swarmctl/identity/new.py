"""``swarmctl identity new``, and the code that it shares with ``restore``."""

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
    """Give a node a new identity.

    Raises IdentityProblem if it has one and the user did not agree to replace it; NodeConflict if it is running.
    """
    name = chosen(node, "swarmctl identity new")
    again = f"swarmctl identity new --node {shlex.quote(name)}"
    made, files = Identity.generate(), files_of(name)
    with opened(name, again):
        replaced = put(made, files, prompter, f"{again} --yes")
    tell(made, files, replaced, as_json=as_json)


def put(identity: Identity, files: NodeFiles, prompter: Prompter, again: str) -> str | None:
    """Set the node's identity; return the node's previous peer id, if that can be read.

    Raises IdentityProblem if the node has another identity and the user did not agree to replace it. ``again`` is the
    command that replaces it.
    """
    old = None
    there = os.path.lexists(files.key)
    if there:
        old = describe(files)
        if old["peer_id"] == identity.peer_id:
            return identity.peer_id
        who = f"{old['name']} ({old['peer_id']})" if old["peer_id"] else f"a key that cannot be used ({old['problem']})"
        prompter.confirm(
            f"Node {files.root.name} already has an identity: {who}. Without a backup, that identity is lost, with its "
            "contribution and reputation. Replace it?",
            IdentityProblem(f"node {files.root.name} already has an identity: {who}", next=again),
            "The identity is unchanged.",
        )
    with disk_errors(files.root):
        identity.save(files.key, replace=there)
    return old["peer_id"] if old else None


def tell(identity: Identity, files: NodeFiles, replaced: str | None, *, as_json: bool) -> None:
    """Print a node's new identity."""
    name = animal_name(identity.peer_id)
    if as_json:
        print_json(node=files.root.name, peer_id=identity.peer_id, name=name, file=str(files.key), replaced=replaced)
        return
    say = Writer(sys.stdout)
    say(f"Node {files.root.name} is {name} ({identity.peer_id}).")
    if replaced != identity.peer_id:
        say("Keep a backup on another machine:")
        say("  " + command(["identity", "backup", "FILE", "--node", files.root.name]))


def chosen(node: str | None, again: str) -> str:
    """Return the node that a command is for: the one it names, or the only one.

    Raises UsageError if none is named and there is not exactly one. ``again`` is the command without the node's name.
    """
    if node is not None:
        return node
    names = node_names()
    if len(names) == 1:
        return names[0]
    found = f"{len(names)} nodes on this machine; choose" if names else "no node on this machine yet; name"
    raise UsageError(f"{found} one with --node", next=f"{again} --node {shlex.quote((names or ['my-node'])[0])}")


def opened(name: str, retry: str) -> AbstractContextManager[object]:
    """Return a context that locks a node, and creates it first if it does not exist.

    Raises ConfigurationError if the name is invalid. Entering the context raises NodeConflict if the node is running.
    ``retry`` is the command that a conflict suggests if the node is new.
    """
    if name in node_names():
        return nodes.held(files_of(name), lambda _: f"swarmctl status --node {shlex.quote(name)}")
    from swarmctl.settings.command_line import resolved_options
    from swarmctl.settings.options import RunOptions

    return nodes.opened(resolved_options(RunOptions(node=name)).config, lambda _: retry)
