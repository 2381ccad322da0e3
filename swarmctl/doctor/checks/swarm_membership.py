"""What nodes of this machine need to be in their swarms: a key, a charter, the library it pins, a port."""

import shlex
from collections import Counter

from hivemind_exp.errors import IdentityProblem, NodeError
from hivemind_exp.node_files import NodeFiles
from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.installation import install, installed
from swarmctl.doctor.checks.swarm import nodes
from swarmctl.storage import node_lock as locks

_NONE = "no node of this machine is in a swarm"


def key(context: Context) -> Finding:
    """Read the keys of this machine's nodes."""
    from hivemind_exp.swarm.identity import Identity

    keyed = [files for files in nodes(context) if files.key.exists()]
    if not keyed:
        return skipped("no node of this machine has a key yet; it gets one when it joins a swarm")
    peers: Counter[str] = Counter()
    for files in keyed:
        try:
            peers[Identity.load(files.key).peer_id] += 1
        except IdentityProblem as error:
            return failed(f"the key of node {files.root.name}: {error.message}", error.next)
    if copied := [peer for peer, count in peers.items() if count > 1]:
        return warning(
            f"several nodes share the key of {copied[0]}; only one of them can run at a time", "swarmctl identity show"
        )
    return ok(f"{_of('key', keyed)} can be used")


def charter(context: Context) -> Finding:
    """Check the charters of this machine's nodes, and the versions of the libraries that they pin."""
    from swarmctl.swarm.member import member

    members = _members(context)
    for name in (files.root.name for files in members):
        try:
            found = member(name).charter
        except NodeError as error:
            return failed(error.message, error.next)
        for task in found.tasks:
            library, _, version = task.version.partition(" ")
            here = installed(library) if library else version
            if here != version:
                return failed(
                    f"swarm {found.name} of node {name} makes {task.label} with {task.version}, and this machine has "
                    f"{here or 'none'}",
                    install(f"{library}=={version}"),
                )
    return ok(f"{_of('charter', members)} can be played here") if members else skipped(_NONE)


def listen(context: Context) -> Finding:
    """Tell whether the ports that nodes keep are theirs."""
    from hivemind_exp.swarm.addresses import is_free, read_port

    members = _members(context)
    taken = [
        (files.root.name, port)
        for files in members
        if not locks.is_held(files.lock) and (port := read_port(files.swarm)) is not None and not is_free(port)
    ]
    if taken:
        name, port = taken[0]
        return warning(
            f"port {port} of node {name} is taken by another program; the node will choose another, and its "
            "invitations of before then lead nowhere",
            f"swarmctl swarm invite --node {shlex.quote(name)}",
        )
    return ok(f"{_of('port', members)} is free, or its node runs") if members else skipped(_NONE)


def _members(context: Context) -> list[NodeFiles]:
    return [files for files in nodes(context) if files.charter.exists()]


def _of(what: str, found: list[NodeFiles]) -> str:
    names = ", ".join(files.root.name for files in found)
    return f"{'the' if len(found) == 1 else 'each'} {what} of {names}"
