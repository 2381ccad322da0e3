"""Which node of this machine a command about swarms means, and what is known of it without asking anybody."""

import shlex
from dataclasses import dataclass

from hivemind_exp.config import SwarmConfig
from hivemind_exp.errors import ConfigurationError, IdentityProblem, SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import LONGEST, Charter
from hivemind_exp.swarm.identity import Identity
from swarmctl.nodes.lookup import all_nodes, existing, files_of
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json


@dataclass(frozen=True, slots=True)
class Member:
    """A node that is in a swarm."""

    files: NodeFiles
    charter: Charter

    @property
    def name(self) -> str:
        return self.files.root.name

    @property
    def peer(self) -> str | None:
        """The node's peer id; None where its key cannot be read."""
        try:
            return Identity.load(self.files.key).peer_id
        except IdentityProblem:
            return None

    @property
    def running(self) -> bool:
        return locks.is_held(self.files.lock)

    @property
    def settings(self) -> SwarmConfig:
        """What the node was last run with."""
        table = ((read_json(self.files.config) or {}).get("config") or {}).get("swarm") or {}
        return SwarmConfig.model_validate(
            {key: value for key, value in table.items() if key in SwarmConfig.model_fields}
        )


def member(name: str | None) -> Member:
    """Return the node ``name``, or without a name the only one that is in a swarm.

    Raises ConfigurationError where it is in none, or several could be meant.
    """
    if name is not None and not existing(name).charter.exists():
        raise ConfigurationError(f"node {name} is in no swarm", next="swarmctl swarm --help")
    members = [files_of(name)] if name is not None else [files for files in all_nodes() if files.charter.exists()]
    if not members:
        raise ConfigurationError(
            "no node of this machine is in a swarm: found one, or join one with `swarmctl run --join`",
            next="swarmctl swarm new my-swarm",
        )
    names = [files.root.name for files in members]
    if len(names) > 1:
        raise ConfigurationError(
            f"{len(names)} nodes of this machine are in a swarm ({', '.join(names)}): say which",
            next=f"swarmctl swarm show --node {shlex.quote(names[0])}",
        )
    return Member(members[0], _charter(members[0]))


def _charter(files: NodeFiles) -> Charter:
    """Return the charter of a node, against what its ``node.json`` says that it is."""
    swarm = (read_json(files.identity) or {}).get("swarm")
    again = f"swarmctl run --node {shlex.quote(files.root.name)}"
    if not isinstance(swarm, str):
        raise SwarmError(f"node {files.root.name} does not say which swarm it is in", next=again)
    try:
        with files.charter.open("rb") as file:
            return Charter.open(file.read(2 * LONGEST), swarm)
    except (OSError, SwarmError) as error:
        # The peers have it too: a run that finds it damaged here asks them.
        raise SwarmError(f"the charter of node {files.root.name} cannot be read: {error}", next=again) from error
