"""``swarmctl swarm invite``: print the invitation to a node's swarm, with its current addresses."""

import sys

from hivemind_exp.config import SwarmConfig
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.addresses import LOOPBACK, is_public, kept_port, own_addresses
from hivemind_exp.swarm.contacts import KNOWN, KnownPeers
from hivemind_exp.swarm.invitation import MOST_ADDRESSES, Invitation, is_address, parse
from swarmctl.settings.command_line import read_last
from swarmctl.settings.profile_files import DEFAULT, is_builtin
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
    join = join_command(line, last.profile if last else DEFAULT)
    if as_json:
        swarm = {"swarm": found.charter.id, "name": found.charter.name}
        print_json(node=found.name, **swarm, peer=found.peer, running=found.running, invitation=str(line), command=join)
        return
    say = Writer(sys.stderr)
    if not found.running:
        say(f"Node {found.name} is not running. Others can join once it runs, or through a peer that is running.")
    say(reach(line))
    say(f"Anyone with this line can join swarm {found.charter.name}:")
    print(join, flush=True)


def join_command(line: Invitation, profile: str) -> str:
    """Return the command that others paste to join with an invitation.

    It names the inviting node's profile if that is a built-in one, which every machine has. Without it, the joining
    node would train the default model, however small the swarm's first node is.
    """
    named = ("--profile", profile) if profile != DEFAULT and is_builtin(profile) else ()
    return command(["run", *named, "--join", str(line)])


def invitation(files: NodeFiles, settings: SwarmConfig, swarm: str, peer: str) -> Invitation:
    """Return the invitation to a node's swarm, with this machine's addresses and then those of a few peers.

    Chooses the node's port if it has none yet. Raises OSError.
    """
    own = own_addresses(peer, kept_port(files.swarm, settings), settings)
    others = [each for each in known_addresses(files, settings) if each.rpartition("/")[2] != peer]
    return Invitation(swarm, tuple(dict.fromkeys((*own, *others)))[:MOST_ADDRESSES])


def known_addresses(files: NodeFiles, settings: SwarmConfig) -> list[str]:
    """Return addresses of the peers that answered most recently, or else those in the node's own invitation."""
    contacts = [(peer, contact) for peer, contact in KnownPeers(files.swarm / KNOWN).items() if contact.answered]
    contacts.sort(key=lambda item: item[1].answered, reverse=True)
    # A peer's first address is the one with the widest reach.
    found = [f"{contact.addresses[0]}/p2p/{peer}" for peer, contact in contacts if contact.addresses]
    known = list(filter(is_address, found))[:PEERS]
    return known or (list(parse(settings.join).addresses)[:PEERS] if settings.join else [])


def reach(line: Invitation) -> str:
    """Return a sentence on where the addresses of an invitation can be reached from."""
    found = [each.split("/")[2] for each in line.addresses]
    if any(is_public(host) for host in found):
        return "The node can be reached from anywhere, unless a firewall blocks it."
    if all(host == LOOPBACK for host in found):
        return "The node can be reached from this machine only."
    return (
        "The node can be reached from this network. To make it reachable from elsewhere, forward a port to it and set "
        "swarm.announce to its public address."
    )
