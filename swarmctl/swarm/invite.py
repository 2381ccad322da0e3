"""``swarmctl swarm invite``: print the invitation to a node's swarm, with its current addresses."""

import sys
from contextlib import suppress

from hivemind_exp.errors import IdentityProblem, NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.proxies import is_loopback
from hivemind_exp.swarm.addresses import is_public, kept_port, own_addresses
from hivemind_exp.swarm.contacts import KNOWN, KnownPeers
from hivemind_exp.swarm.invitation import MOST_ADDRESSES, Invitation, is_address, parse
from hivemind_exp.swarm_settings import SwarmConfig
from swarmctl.nodes.lookup import other_name
from swarmctl.settings.command_line import read_last
from swarmctl.settings.profile_files import DEFAULT, family, find, is_builtin, read
from swarmctl.swarm.member import member
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer

PEERS = 3
"""Number of other peers in the invitation. It works as long as one of them can be reached."""


def invite(node: str | None, *, as_json: bool) -> None:
    """Print the command that joins a node's swarm."""
    found = member(node, "invite")
    if found.peer is None:
        raise IdentityProblem(
            f"cannot read the key of node {found.name}", next=f"swarmctl identity show --node {found.name}"
        )
    line = invitation(found.files, found.settings, found.charter.id, found.peer)
    last = read_last(found.files)
    join = join_command(line, last.profile if last else DEFAULT, found.name)
    if as_json:
        swarm = {"swarm": found.charter.id, "name": found.charter.name}
        print_json(node=found.name, **swarm, peer=found.peer, running=found.running, invitation=str(line), command=join)
        return
    say = Writer(sys.stderr)
    if not found.running:
        say(f"Node {found.name} is not running. Others can join once it runs, or through a peer that is running.")
    say(reach(line, found.settings))
    who = "Other nodes on this machine" if only_here(line) else "Anyone with this line"
    say(f"{who} can join swarm {found.charter.name}{' with' if only_here(line) else ''}:")
    print(join, flush=True)


def join_command(line: Invitation, profile: str, node: str) -> str:
    """Return the command that others paste to join with the invitation of ``node``, whose profile is ``profile``.

    It names a profile, or else the joining node would train the default model, however small the swarm's first node is.
    Every machine has the built-in profiles, but only this one has the user's. If only this machine can join, it
    also names the new node, because the swarm's name is taken.
    """
    here = only_here(line)
    with suppress(NodeError):  # the file is gone or damaged
        base = family(read(find(profile)))[0]
        if not here or is_builtin(profile):
            profile = base.name if base.builtin else DEFAULT
    named = ("--profile", profile) if profile != DEFAULT else ()
    return command(["run", *named, *(("--node", other_name(node)) if here else ()), "--join", str(line)])


def only_here(line: Invitation) -> bool:
    """Whether an invitation can only be used on this machine."""
    return all(is_loopback(each.split("/")[2]) for each in line.addresses)


def without_loopback(line: Invitation) -> Invitation:
    """Return an invitation without loopback addresses, which other machines cannot use, unless it has no others."""
    others = tuple(each for each in line.addresses if not is_loopback(each.split("/")[2]))
    return Invitation(line.charter, others) if others else line


def invitation(files: NodeFiles, settings: SwarmConfig, swarm: str, peer: str) -> Invitation:
    """Return the invitation to a node's swarm, with this machine's addresses and then those of a few peers.

    Loopback addresses are included with ``swarm.loopback``, or if there are no others. Chooses the node's port if it
    has none yet. Raises OSError.
    """
    own = own_addresses(peer, kept_port(files.swarm, settings), settings)
    others = [each for each in known_addresses(files, settings) if each.rpartition("/")[2] != peer]
    line = Invitation(swarm, tuple(dict.fromkeys((*own, *others)))[:MOST_ADDRESSES])
    return line if settings.loopback else without_loopback(line)


def known_addresses(files: NodeFiles, settings: SwarmConfig) -> list[str]:
    """Return addresses of the peers that answered most recently, or else those in the node's own invitation."""
    contacts = [(peer, contact) for peer, contact in KnownPeers(files.swarm / KNOWN).items() if contact.answered]
    contacts.sort(key=lambda item: item[1].answered, reverse=True)
    # A peer's first address is the one with the widest reach.
    found = [f"{contact.addresses[0]}/p2p/{peer}" for peer, contact in contacts if contact.addresses]
    known = list(filter(is_address, found))[:PEERS]
    return known or (list(parse(settings.join).addresses)[:PEERS] if settings.join else [])


def reach(line: Invitation, settings: SwarmConfig) -> str:
    """Return where the addresses of a node's invitation can be reached from, and how to change that."""
    found = [each.split("/")[2] for each in line.addresses]
    if any(is_public(host) for host in found):
        return "The node can be reached from anywhere, unless a firewall blocks it."
    if only_here(line) and settings.loopback:
        return (
            "The node can be reached from this machine only, because swarm.loopback is true. To let other machines "
            "join, start it with --set swarm.loopback=false and share what `swarmctl swarm invite` then prints."
        )
    if only_here(line):
        return (
            "The node can be reached from this machine only, because no other network address was found. To let other "
            "machines join, connect it to a network or set swarm.announce to its public address."
        )
    return (
        "The node can be reached from this network. To make it reachable from elsewhere, forward a port to it and set "
        "swarm.announce to its public address."
    )
