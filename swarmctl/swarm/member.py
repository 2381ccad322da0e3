"""The node that a swarm command is for, and what its files say about it."""

import shlex
from dataclasses import dataclass

from hivemind_exp.errors import ConfigurationError, IdentityProblem, SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import LONGEST, Charter
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm_settings import SwarmConfig
from swarmctl.nodes.lookup import all_nodes, files_of, latest, readable
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
        """The node's peer id; None if its key cannot be read."""
        try:
            return Identity.load(self.files.key).peer_id
        except IdentityProblem:
            return None

    @property
    def running(self) -> bool:
        return locks.is_held(self.files.lock)

    @property
    def settings(self) -> SwarmConfig:
        """The settings of the node's last run."""
        table = ((read_json(self.files.config) or {}).get("config") or {}).get("swarm") or {}
        return SwarmConfig.model_validate(
            {key: value for key, value in table.items() if key in SwarmConfig.model_fields}
        )


def member(name: str | None, command: str) -> Member:
    """Return the node ``name``, or without a name the only node in a swarm, for ``swarmctl swarm COMMAND``.

    Raises ConfigurationError if the node is not in a swarm, or if no name is given and not exactly one
    node is in a swarm.
    """
    if name is not None and not readable(name).charter.exists():
        raise ConfigurationError(f"node {name} is not in a swarm", next="swarmctl swarm new my-swarm")
    members = [files_of(name)] if name is not None else [files for files in all_nodes() if files.charter.exists()]
    if not members:
        raise ConfigurationError(
            "no node on this machine is in a swarm. Create a swarm, or join one with `swarmctl run --join`.",
            next="swarmctl swarm new my-swarm",
        )
    names = [files.root.name for files in members]
    if len(names) > 1:
        raise ConfigurationError(
            f"{len(names)} nodes on this machine are in a swarm ({', '.join(names)}); choose one with --node",
            next=f"swarmctl swarm {command} --node {shlex.quote(latest(members).root.name)}",
        )
    return Member(members[0], _charter(members[0]))


def _charter(files: NodeFiles) -> Charter:
    """Return a node's charter, checked against the swarm id in its ``node.json``."""
    swarm = (read_json(files.identity) or {}).get("swarm")
    again = f"swarmctl run --node {shlex.quote(files.root.name)}"
    if not isinstance(swarm, str):
        raise SwarmError(f"the node.json of node {files.root.name} does not contain a swarm id", next=again)
    try:
        with files.charter.open("rb") as file:
            return Charter.open(file.read(2 * LONGEST), swarm)
    except (OSError, SwarmError) as error:
        # The peers have the charter, too: a run that finds it damaged fetches it from them.
        raise SwarmError(f"cannot read the charter of node {files.root.name}: {error}", next=again) from error
